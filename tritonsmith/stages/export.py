"""export: a PyTorch checkpoint to ONNX, by optimum, in an IR and opset that the chosen Triton release reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.artifact import MODEL_FILE, write_meta
from tritonsmith.errors import CheckpointError, StageError
from tritonsmith.stages.loading import load_model, load_tokenizer
from tritonsmith.tasks import Task

_RANDOM_OPERATORS = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_OPSET = 18
"""What optimum exports with; ORT's graph optimizer recognises the patterns of this opset."""


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Export `inputs["checkpoint"]`.

    Options:
        task, model_type, max_length (tokens), vocab_size, labels, trust_remote_code;
        max_opset and max_ir_version of the release.

    Raises:
        CheckpointError: the tokenizer does not fit the model.
        StageError: the exporter does not know the architecture, or wrote what the release cannot read.
    """
    checkpoint = inputs["checkpoint"]
    task = Task(options["task"])
    trust = bool(options["trust_remote_code"])
    tokenizer = load_tokenizer(checkpoint, trust)
    check_tokenizer(tokenizer, int(options["vocab_size"]), checkpoint)
    _export(checkpoint, output, task, trust, min(_OPSET, int(options["max_opset"])))
    _lower_ir_version(output / MODEL_FILE, int(options["max_ir_version"]))
    tokenizer.save_pretrained(output)
    write_meta(
        output,
        task=task,
        model_type=options["model_type"],
        max_length=options["max_length"],
        pad_token_id=tokenizer.pad_token_id or 0,
        labels=list(options["labels"]),
        precision="fp32",
    )
    return {}


def check_tokenizer(tokenizer: Any, vocab_size: int, checkpoint: Path) -> None:
    """Raise CheckpointError if the tokenizer gives ids for which the model has no embedding."""
    largest = max(tokenizer.get_vocab().values())
    if vocab_size and largest >= vocab_size:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer does not match the model: it gives ids up to {largest}, "
            f"the model has embeddings for 0 to {vocab_size - 1}"
        )


def _export(checkpoint: Path, output: Path, task: Task, trust: bool, opset: int) -> None:
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.exporters.tasks import TasksManager

    # optimum loads a checkpoint that lacks its head just as transformers does, so the model comes from our own loader.
    model = load_model(checkpoint, task, trust)
    try:
        TasksManager.get_exporter_config_constructor(exporter="onnx", model=model, task=str(task), library_name="transformers")
        onnx_export_from_model(
            model, output=output, task=str(task), opset=opset, do_validation=False, library_name="transformers"
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(f"export: {model.config.model_type} cannot be exported for {task}: {reason}") from error


def check_inference(graph: Any) -> None:
    """Raise StageError for a graph that was exported in training mode: it drops values at random."""
    random = sorted({node.op_type for node in graph.node} & _RANDOM_OPERATORS)
    if random:
        raise StageError(
            f"export: the graph has {random[0]} operators: it was exported in training mode and would answer at random"
        )


def _lower_ir_version(file: Path, max_ir_version: int) -> None:
    """Stamp an IR version that the release reads; newer IRs differ only in features that no encoder uses."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    if model.ir_version > max_ir_version:
        model.ir_version = max_ir_version
        file.write_bytes(model.SerializeToString())
    check_inference(model.graph)
    domains = {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}
    if domains:
        raise StageError(f"export: the graph uses operators of {sorted(domains)[0]}, which the raw export must not have")
