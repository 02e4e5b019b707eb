"""Ways to spoil a model of a repository: what the preflight must find, and whether Triton itself refuses it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One fault; `spoil` is given the folder of a copy of a published tiny BERT."""

    name: str
    rule: str
    spoil: Spoil
    refused: bool = True
    """Whether a server on a CPU refuses to load it; if not, the fault is silent there."""
    severity: str = "error"


def rewrite(old: str, new: str) -> Spoil:
    """Replace every match of a regular expression in config.pbtxt."""

    def spoil(model: Path) -> None:
        config = model / "config.pbtxt"
        text = re.sub(old, new, config.read_text(), flags=re.DOTALL)
        assert text != config.read_text(), old
        config.write_text(text)

    return spoil


def append(text: str) -> Spoil:
    """Add a line to config.pbtxt."""

    def spoil(model: Path) -> None:
        config = model / "config.pbtxt"
        config.write_text(f"{config.read_text()}{text}\n")

    return spoil


def both(first: Spoil, second: Spoil) -> Spoil:
    def spoil(model: Path) -> None:
        first(model)
        second(model)

    return spoil


def files(change: Callable[[Path], object]) -> Spoil:
    """Change something else than config.pbtxt."""

    def spoil(model: Path) -> None:
        change(model)

    return spoil


def warmup(inputs: str = "input_ids attention_mask token_type_ids", **changes: str) -> Spoil:
    """Add a warm-up request of 8 tokens with some of its fields changed."""
    fields = {"batch_size": "1", "data_type": "TYPE_INT64", "dims": "[ 8 ]", "data": "zero_data: true"} | changes
    body = " ".join(
        f'inputs {{ key: "{name}" value {{ data_type: {fields["data_type"]} dims: {fields["dims"]} {fields["data"]} }} }}'
        for name in inputs.split()
    )
    return append(f'model_warmup {{ name: "w" batch_size: {fields["batch_size"]} {body} }}')


def short_file(model: Path) -> None:
    (model / "warmup").mkdir()
    (model / "warmup" / "short").write_bytes(bytes(8))


def graph(change: Callable[[Any], None]) -> Spoil:
    """Change the graph of a model that nobody published with checksums."""

    def spoil(model: Path) -> None:
        import onnx

        loaded = onnx.load(model / "1" / "model.onnx")
        change(loaded)
        onnx.save(loaded, model / "1" / "model.onnx")
        (model / "1" / "manifest.json").unlink()

    return spoil


def from_the_future(model: Any) -> None:
    """An opset and IR version that no release knows yet."""
    model.ir_version = 99
    model.opset_import[0].version = 99


def fix_batch(model: Any) -> None:
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1


def weights_elsewhere(location: str) -> Spoil:
    def change(model: Any) -> None:
        from onnx.external_data_helper import set_external_data

        tensor = max(model.graph.initializer, key=lambda entry: len(entry.raw_data))
        set_external_data(tensor, location)
        tensor.ClearField("raw_data")

    return graph(change)


_ACCELERATOR = 'optimization {{ execution_accelerators {{ {} {{ name: "{}" {} }} }} }}'

CASES = [
    Case("unknown_field", "syntax", append("colour: 1")),
    Case("unfinished", "syntax", append("dynamic_batching {")),
    Case("other_name", "name", rewrite('name: "unspoiled"', 'name: "somebody"')),
    Case("no_config", "config-missing", files(lambda model: (model / "config.pbtxt").unlink())),
    Case("no_version", "no-version", files(lambda model: shutil.rmtree(model / "1"))),
    Case("leading_zero", "version-name", files(lambda model: (model / "1").rename(model / "01"))),
    Case("policy_of_none", "no-version", rewrite("latest {[^}]*}", "specific { versions: [ 9 ] }")),
    Case("latest_0", "no-version", rewrite("num_versions: 1", "num_versions: 0")),
    Case("empty_version", "model-file", files(lambda model: (model / "2").mkdir())),
    Case("no_onnx", "model-file", files(lambda model: (model / "1" / "model.onnx").write_bytes(b"not a model"))),
    Case("no_weights", "model-file", weights_elsewhere("weights.bin")),
    Case("weights_outside", "path", weights_elsewhere("../../weights.bin")),
    Case("file_outside", "path", append('default_model_filename: "../../model.onnx"')),
    Case("changed_file", "checksum", files(lambda model: (model / "1" / "tokenizer.json").write_text("{}")), refused=False),
    Case("lost_file", "checksum", files(lambda model: (model / "1" / "tokenizer.json").unlink()), refused=False),
    Case("broken_manifest", "manifest", files(lambda model: (model / "1" / "manifest.json").write_text("{")), refused=False),
    Case("added_file", "stranger", files(lambda model: (model / "1" / "x").write_text("")), refused=False, severity="warning"),
    Case(
        "no_tokenizer",
        "tokenizer",
        both(
            files(lambda model: (model / "1" / "tokenizer.json").unlink()),
            files(lambda model: (model / "1" / "manifest.json").unlink()),
        ),
        refused=False,
        severity="warning",
    ),
    Case("no_backend", "backend", rewrite('backend: "onnxruntime"', ""), refused=False, severity="warning"),
    Case("old_platform", "platform", rewrite("backend: .onnxruntime.", 'platform: "onnxruntime_onnx"'), False, "warning"),
    Case("input_name", "unknown-tensor", rewrite('name: "input_ids"', 'name: "ids"')),
    Case("output_name", "unknown-tensor", rewrite('name: "end_logits"', 'name: "stop_logits"')),
    Case("type", "data-type", rewrite("TYPE_INT64", "TYPE_INT32")),
    Case("rank", "rank", rewrite(r"dims: \[ -1 \]", "dims: [ -1, -1 ]")),
    Case("zero", "dims", rewrite(r"dims: \[ -1 \]", "dims: [ 0 ]")),
    Case("lost_input", "missing-input", rewrite(r"input \[.*?\},", "input [")),
    Case("no_inputs", "tensors-missing", rewrite(r"input \[.*?\n\]", "")),
    Case("lost_output", "missing-output", rewrite(r"output \[.*?\},", "output ["), refused=False, severity="warning"),
    Case("fixed_batch", "fixed-batch", graph(fix_batch)),
    Case("future_opset", "opset", graph(from_the_future)),
    Case("future_ir", "ir-version", graph(from_the_future)),
    Case("negative_batch", "max-batch-size", rewrite("max_batch_size: 8", "max_batch_size: -1")),
    Case(
        "batching_without_batch",
        "batching-without-batch",
        both(rewrite("max_batch_size: 8", "max_batch_size: 0\ndynamic_batching { }"), rewrite(r"\[ -1 \]", "[ -1, -1 ]")),
        refused=False,
    ),
    Case("preferred", "preferred-batch-size", append("dynamic_batching { preferred_batch_size: [ 16 ] }")),
    Case("preferred_0", "preferred-batch-size", append("dynamic_batching { preferred_batch_size: [ 0 ] }")),
    Case(
        "preferred_unused",
        "preferred-batch-size-unused",
        append("dynamic_batching { preferred_batch_size: [ 4 ] }"),
        refused=False,
        severity="warning",
    ),
    Case("priority", "priority", append("dynamic_batching { priority_levels: 2 default_priority_level: 3 }")),
    Case("no_priority", "priority", append("dynamic_batching { priority_levels: 2 }")),
    Case(
        "priority_policy",
        "priority",
        append("dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 5 value { } } }"),
    ),
    Case("gpu", "no-gpu", rewrite("KIND_CPU", "KIND_GPU")),
    Case("cpu_with_gpus", "cpu-with-gpus", rewrite("count: 1", "count: 1 gpus: [ 0 ]")),
    Case("no_group", "instance-group", rewrite(r"instance_group \[.*?\n\]", ""), refused=False, severity="warning"),
    Case("no_count", "instance-count", rewrite("count: 1", ""), refused=False, severity="warning"),
    Case("cache", "cache-flag", append("response_cache { enable: true }"), refused=False, severity="warning"),
    Case(
        "cache_decoupled",
        "cache-decoupled",
        append("response_cache { enable: true } model_transaction_policy { decoupled: true }"),
    ),
    Case("rate", "rate-limit-flag", rewrite("count: 1", "count: 1 rate_limiter { priority: 1 }"), False, "warning"),
    Case("host", "host-policy-flag", rewrite("count: 1", 'count: 1 host_policy: "socket_0"'), False, "warning"),
    Case(
        "ragged",
        "ragged-output",
        rewrite('name: "input_ids"', 'name: "input_ids" allow_ragged_batch: true'),
        refused=False,
    ),
    Case(
        "unknown_parameter",
        "unknown-parameter",
        append('parameters { key: "intra_op_threads" value { string_value: "1" } }'),
        refused=False,
        severity="warning",
    ),
    Case(
        "deprecated_parameter",
        "deprecated-parameter",
        append('parameters { key: "gpu_mem_limit" value { string_value: "1" } }'),
        refused=False,
        severity="warning",
    ),
    Case("threads", "parameter-value", rewrite('string_value: "1"', 'string_value: "many"')),
    Case("mode", "parameter-value", append('parameters { key: "execution_mode" value { string_value: "7" } }')),
    Case("level", "graph-level", append("optimization { graph { level: 7 } }"), refused=False),
    Case("accelerator", "accelerator", append(_ACCELERATOR.format("cpu_execution_accelerator", "openvin", ""))),
    Case(
        "gpu_accelerator",
        "accelerator-unused",
        append(_ACCELERATOR.format("gpu_execution_accelerator", "cuda", "")),
        refused=False,
        severity="warning",
    ),
    Case(
        "accelerator_option",
        "accelerator-option",
        append(_ACCELERATOR.format("gpu_execution_accelerator", "tensorrt", 'parameters { key: "precision" value: "FP16" }')),
        refused=False,
    ),
]

WARMUPS = [
    Case("large_batch", "warmup-batch", warmup(batch_size="9")),
    Case("lost_input", "warmup-input", warmup("input_ids attention_mask")),
    Case("added_input", "warmup-input", warmup("input_ids attention_mask token_type_ids x"), refused=False, severity="warning"),
    Case("type", "warmup-type", warmup(data_type="TYPE_INT32")),
    Case("rank", "warmup-dims", warmup(dims="[ 8, 1 ]")),
    Case("open", "warmup-dims", warmup(dims="[ -1 ]")),
    Case("length", "warmup-length", warmup(dims="[ 4096 ]")),
    Case("no_data", "warmup-data", warmup(data="")),
    Case("no_file", "warmup-file", warmup(data='input_data_file: "nothing"')),
    Case("short_file", "warmup-file", both(files(short_file), warmup(data='input_data_file: "short"'))),
    Case("outside", "path", warmup(data='input_data_file: "../1/model.onnx"')),
]
"""A warm-up that fails sometimes ends the whole server."""

_MAPS = 'input_map { key: "input_ids" value: "IDS" } input_map { key: "token_type_ids" value: "IDS" } '
_MASK = 'input_map { key: "attention_mask" value: "IDS" } '
_OUTPUT = 'output_map { key: "start_logits" value: "START" } '


def ensemble(maps: str = _MAPS + _MASK + _OUTPUT, model: str = "unspoiled", batch: int = 8, version: int = -1) -> Spoil:
    """Replace the model by an ensemble of one step."""

    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / "1")
        (folder / "1").mkdir()
        (folder / "config.pbtxt").write_text(
            f'name: "{folder.name}" platform: "ensemble" max_batch_size: {batch} '
            "input { name: 'IDS' data_type: TYPE_INT64 dims: -1 } output { name: 'START' data_type: TYPE_FP32 dims: -1 } "
            f'ensemble_scheduling {{ step {{ model_name: "{model}" model_version: {version} {maps} }} }}\n'
        )

    return spoil


ENSEMBLES = [
    Case("no_model", "ensemble-model", ensemble(model="nobody")),
    Case("unknown_input", "ensemble-map", ensemble(_MAPS + _MASK + _OUTPUT + 'input_map { key: "x" value: "IDS" }')),
    Case("unknown_output", "ensemble-map", ensemble(_MAPS + _MASK + 'output_map { key: "x" value: "START" }')),
    Case("lost_input", "ensemble-map", ensemble(_MAPS + _OUTPUT)),
    Case("dangling", "ensemble-tensor", ensemble(_MAPS + _MASK.replace("IDS", "MASK") + _OUTPUT)),
    Case("no_output", "ensemble-tensor", ensemble(_MAPS + _MASK + _OUTPUT.replace("START", "OTHER"))),
    Case("large_batch", "ensemble-batch", ensemble(batch=16)),
    Case("no_such_version", "ensemble-version", ensemble(version=7)),
    Case(
        "type",
        "ensemble-type",
        ensemble(_MAPS.replace("token_type_ids", "input_ids") + _MASK + _OUTPUT.replace("START", "IDS")),
    ),
]
