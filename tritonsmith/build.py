"""The build: checkpoint -> stages, each verified -> a version in the model repository."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tritonsmith
from tritonsmith.artifact import Artifact
from tritonsmith.checkpoint import Checkpoint, resolve
from tritonsmith.errors import UsageError
from tritonsmith.gate import check_datasets
from tritonsmith.hashing import sha256_file
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.jobs import JobRunner, library_versions
from tritonsmith.metrics.scoring import Scores
from tritonsmith.options import BuildOptions, check_options
from tritonsmith.preflight.check import read_onnx
from tritonsmith.preflight.model import Graph
from tritonsmith.recipes import precision_of
from tritonsmith.releases import find_release
from tritonsmith.repository.describe import Described, Subject, describe
from tritonsmith.repository.model_config import ModelConfig
from tritonsmith.repository.publish import Published, publish
from tritonsmith.stage_runs import StageReport, run_stages


@dataclass(frozen=True)
class BuildResult:
    """A finished build."""

    name: str
    published: Published
    checkpoint: Checkpoint
    stages: list[StageReport]
    baseline: Scores | None
    """The checkpoint's metric in PyTorch, where a dataset is given."""
    notes: list[str]


def notes_on(options: BuildOptions, reports: Sequence[StageReport], config: ModelConfig) -> list[str]:
    """Return what the user should know about a combination of options that is allowed but has a cost."""
    notes = []
    if options.device == "cpu" and precision_of(options.stages) == "fp16":
        notes.append("fp16 on a CPU runs at FP32 speed; it halves the size only (int8 is the fast one)")
    if options.stages[-1] == "int8-dynamic" and config.dynamic_batching:
        moved = f": logits moved by up to {_batch_diff(reports):.2g}" if reports else ""
        notes.append(f"dynamic int8 takes one activation scale over a batch, so answers depend on their batch mates{moved}")
    if _uses_tensorrt(config):
        notes.append("TensorRT converts the graph itself when it loads it: what it answers then was not verified here")
    for report in reports:
        if report.stage == "compact" and report.facts["nothing_to_cut"]:
            notes.append("compact found nothing to cut: no attention head or FFN neuron is zero")
        elif report.stage == "compact":
            left = report.facts["parameters"] / report.facts["parameters_before"]
            notes.append(f"compact left {left:.1%} of the parameters")
        elif report.facts.get("left_in_float"):
            names = report.facts["left_in_float"]
            listed = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            noun = "node" if len(names) == 1 else "nodes"
            notes.append(f"{report.stage} left {len(names)} {noun} in floating point to stay within its limits: {listed}")
        elif report.facts.get("overflow_nodes_kept"):
            count, largest = len(report.facts["overflow_nodes_kept"]), report.facts["largest_activation"]
            notes.append(f"fp16 left {count} nodes in FP32: activations reach {largest:.3g}, FP16 ends at 65504")
        if report.facts.get("calibrated_on_packaged_texts") and options.device == "gpu":
            notes.append(f"{report.stage} was calibrated on the packaged English texts; --calibration takes your own")
    return notes


def build(options: BuildOptions, on_start: Callable[[str], None] | None = None) -> BuildResult:
    """Build and publish one model; `on_start` is told each job that really runs.

    Raises:
        TritonsmithError: wrong options, an unusable checkpoint, a failed stage, or a difference beyond the tolerance;
            nothing is published then.
    """
    check_options(options)
    runner = JobRunner(options.cache, on_start)
    checkpoint = resolve(options.model, runner, options.task, options.trust_remote_code)
    if options.max_length > checkpoint.max_length:
        raise UsageError(f"--max-length {options.max_length}: {options.model} takes at most {checkpoint.max_length} tokens")
    check_datasets(options, checkpoint.task)
    name = options.name or default_name(options.model)
    reports, artifact, baseline = run_stages(options, checkpoint, runner)
    described = _describe(options, name, artifact)
    published = publish(
        options.repository,
        name,
        {file: artifact.path / file for file in artifact.files},
        described.config,
        _manifest(options, name, checkpoint, artifact, reports, baseline),
        described.warmup_files,
    )
    notes = notes_on(options, reports, described.config)
    # What dynamic INT8 costs in a batch is measured, and told by the other note.
    notes += [f"{found.field}: {found.message}; {found.fix}" for found in described.findings if found.rule != "batch-variant"]
    return BuildResult(name, published, checkpoint, reports, baseline, notes)


def _uses_tensorrt(config: ModelConfig) -> bool:
    accelerators = config.optimization.execution_accelerators if config.optimization else None
    return accelerators is not None and any(entry.name == "tensorrt" for entry in accelerators.gpu_execution_accelerator)


def _batch_diff(reports: Sequence[StageReport]) -> float:
    parity = reports[-1].parity
    return float(parity["batch_max_abs_diff"]) if parity else 0.0


def default_name(model: str) -> str:
    """Return the model name for MODEL when the user gives none: the last part of its path or id."""
    last = Path(model.partition("@")[0]).expanduser().resolve().name
    return re.sub(r"[^A-Za-z0-9_.-]", "_", last).lstrip(".-") or "model"


def _describe(options: BuildOptions, name: str, artifact: Artifact) -> Described:
    graph = read_onnx(artifact.model) if artifact.backend == "onnxruntime" else Graph(artifact.inputs, artifact.outputs)
    assert graph is not None, "a stage's own model can be read"
    names = [spec.name for spec in artifact.inputs]
    inputs = TextInputs(load_tokenizer(artifact.path / "tokenizer.json"), artifact.task, names, artifact.pad_token_id)
    precision = options.served_precision if options.recipe is None else artifact.precision
    subject = Subject(name, artifact.backend, graph, options.max_length, precision, inputs.exact)
    return describe(options, subject, find_release(options.triton))


def _metric(options: BuildOptions, baseline: Scores | None) -> dict[str, Any] | None:
    """Return what the stages' metrics were held against."""
    if baseline is None or options.dataset is None:
        return None
    return {
        "checkpoint": asdict(baseline),
        "dataset": _file(options.dataset),
        "limit": options.dataset_limit,
        "max_metric_drop": options.max_metric_drop,
    }


def _file(path: Path | None) -> dict[str, str] | None:
    return {"name": path.name, "sha256": sha256_file(path)} if path else None


def _manifest(
    options: BuildOptions,
    name: str,
    checkpoint: Checkpoint,
    artifact: Artifact,
    reports: list[StageReport],
    baseline: Scores | None,
) -> dict[str, Any]:
    release = find_release(options.triton)
    return {
        "schema": 1,
        "name": name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "tritonsmith": tritonsmith.__version__,
        "source": {"model": checkpoint.source, "revision": checkpoint.revision, "sha256": checkpoint.sha256},
        "task": checkpoint.task,
        "model_type": checkpoint.model_type,
        "precision": artifact.precision,
        "backend": artifact.backend,
        "recipe": list(options.stages),
        "device": options.device,
        "max_length": options.max_length,
        "model_max_length": checkpoint.max_length,
        "pad_token_id": artifact.pad_token_id,
        "labels": list(artifact.labels),
        "onnx": {"opset": artifact.opset, "ir_version": artifact.ir_version},
        "triton": {"release": release.name, "max_opset": release.max_opset, "max_ir_version": release.max_ir_version},
        "stages": [
            {
                "stage": report.stage,
                "size_bytes": report.size_bytes,
                "seconds": report.seconds,
                "peak_bytes": report.peak_bytes,
                "facts": report.facts,
                "parity": report.parity,
                "metric": asdict(report.metric) if report.metric else None,
            }
            for report in reports
        ],
        "metric": _metric(options, baseline),
        "calibration": _file(options.calibration),
        "libraries": library_versions(),
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
    }
