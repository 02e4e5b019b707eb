"""The build: checkpoint -> stages, each verified -> a version in the model repository."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tritonsmith
from tritonsmith.artifact import Artifact, read_artifact
from tritonsmith.checkpoint import Checkpoint, resolve
from tritonsmith.errors import UsageError
from tritonsmith.jobs import Job, JobResult, JobRunner, library_versions
from tritonsmith.paths import cache_folder
from tritonsmith.recipes import PRECISIONS, parse_recipe, precision_of
from tritonsmith.releases import EMBEDDED, find_release
from tritonsmith.repository.model_config import DynamicBatching, InstanceGroup, ModelConfig, from_graph, render
from tritonsmith.repository.publish import Published, publish
from tritonsmith.verify import judge

DEVICES = ("cpu", "gpu")
MIN_MAX_LENGTH = 16
"""In tokens; verification compares lengths from 8 up to the maximum."""


@dataclass(frozen=True)
class BuildOptions:
    """What a user asks of a build; the fields are `tools/build_repo.py`'s options."""

    model: str
    name: str | None = None
    task: str = "auto"
    device: str = "cpu"
    precision: str | None = None
    """fp32 if neither it nor a recipe is given; a recipe has a precision of its own."""
    recipe: str | None = None
    repository: Path = Path("model_repository")
    max_batch_size: int = 8
    instances: int = 1
    max_length: int = 384
    dynamic_batching: bool | None = None
    """None: on for a GPU, off for a CPU, where batching costs latency and brings nothing."""
    max_queue_delay_microseconds: int = 0
    num_versions: int = 1
    intra_op_thread_count: int = 0
    triton: str = EMBEDDED
    trust_remote_code: bool = False
    cache: Path = field(default_factory=cache_folder)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages to run, in their order."""
        return parse_recipe(self.recipe) if self.recipe is not None else PRECISIONS[self.precision or "fp32"]

    @property
    def batches_dynamically(self) -> bool:
        """Whether config.pbtxt asks for the dynamic batcher."""
        if self.dynamic_batching is None:
            return self.device == "gpu" and self.max_batch_size > 0
        return self.dynamic_batching


@dataclass(frozen=True)
class StageReport:
    """One stage of a build: what it made, what it cost, and how it compares with the checkpoint."""

    stage: str
    folder: str
    """Its output in the cache."""
    size_bytes: int
    seconds: float
    peak_bytes: int
    cached: bool
    facts: dict[str, Any]
    parity: dict[str, Any] | None
    """None for a stage that makes a checkpoint; its own check is in its facts."""


@dataclass(frozen=True)
class BuildResult:
    """A finished build."""

    name: str
    published: Published
    checkpoint: Checkpoint
    stages: list[StageReport]
    notes: list[str]


def check_options(options: BuildOptions) -> None:
    """Raise UsageError for what can be seen to be wrong before any work is done."""
    if options.precision is not None and options.recipe is not None:
        raise UsageError("--precision: goes without --recipe, which has a precision of its own")
    if options.precision is not None and options.precision not in PRECISIONS:
        raise UsageError(f"--precision {options.precision}: unknown; expected one of {', '.join(PRECISIONS)}")
    if options.device not in DEVICES:
        raise UsageError(f"--device {options.device}: unknown; expected one of {', '.join(DEVICES)}")
    if options.device == "gpu" and precision_of(options.stages) == "int8":
        asked = f"--recipe {options.recipe}" if options.recipe else "--precision int8"
        raise UsageError(f"{asked}: dynamic int8 runs on the CPU only; use fp16 with --device gpu")
    if options.max_length < MIN_MAX_LENGTH:
        raise UsageError(f"--max-length {options.max_length}: expected {MIN_MAX_LENGTH} tokens or more")
    for option, value, least in (
        ("--num-versions", options.num_versions, 1),
        ("--intra-op-thread-count", options.intra_op_thread_count, 0),
        ("--max-queue-delay", options.max_queue_delay_microseconds, 0),
    ):
        if value < least:
            raise UsageError(f"{option} {value}: expected {least} or more")
    if options.repository.exists() and not options.repository.is_dir():
        raise UsageError(f"--repository {options.repository}: is a file; expected a folder")
    find_release(options.triton)


def notes_on(options: BuildOptions, reports: Sequence[StageReport] = ()) -> list[str]:
    """Return what the user should know about a combination of options that is allowed but has a cost."""
    notes = []
    if options.device == "cpu" and precision_of(options.stages) == "fp16":
        notes.append("fp16 on a CPU runs at FP32 speed; it halves the size only (int8 is the fast one)")
    if precision_of(options.stages) == "int8" and options.batches_dynamically:
        notes.append("dynamic int8 takes one activation scale over a batch: answers depend a little on their batch mates")
    for report in reports:
        if report.stage == "compact" and report.facts["nothing_to_cut"]:
            notes.append("compact found nothing to cut: no attention head or FFN neuron is zero")
        elif report.stage == "compact":
            left = report.facts["parameters"] / report.facts["parameters_before"]
            notes.append(f"compact left {left:.1%} of the parameters")
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
    name = options.name or default_name(options.model)
    reports, artifact = run_stages(options, checkpoint, runner)
    config = _config(options, name, artifact)
    published = publish(
        options.repository,
        name,
        {file: artifact.path / file for file in artifact.files},
        render(config),
        _manifest(options, name, checkpoint, artifact, reports),
    )
    return BuildResult(name, published, checkpoint, reports, notes_on(options, reports))


def default_name(model: str) -> str:
    """Return the model name for MODEL when the user gives none: the last part of its path or id."""
    last = Path(model.partition("@")[0]).expanduser().resolve().name
    return re.sub(r"[^A-Za-z0-9_.-]", "_", last).lstrip(".-") or "model"


def run_stages(options: BuildOptions, checkpoint: Checkpoint, runner: JobRunner) -> tuple[list[StageReport], Artifact]:
    """Run the recipe's stages one after another, then compare every artifact with the checkpoint that the user gave.

    Raises:
        TritonsmithError: a stage failed, or an artifact is beyond its tolerance.
    """
    trust = {"trust_remote_code": options.trust_remote_code}
    side, folder, sha256 = "checkpoint", checkpoint.path, checkpoint.sha256
    results = []
    for stage in options.stages:
        job = Job(stage, _stage_options(stage, options, checkpoint), {side: folder}, {side: sha256})
        results.append(runner.run(job))
        folder, sha256 = results[-1].folder, results[-1].sha256
        if stage == "export":
            side = "artifact"
    export = next(result for result in results if result.kind == "export")
    reference = runner.run(
        Job(
            "reference",
            {"max_length": options.max_length, **trust},
            {"checkpoint": checkpoint.path, "artifact": export.folder},
            {"checkpoint": checkpoint.sha256, "artifact": export.sha256},
        )
    )
    return [_report(result, reference, runner) for result in results], read_artifact(folder)


def _stage_options(stage: str, options: BuildOptions, checkpoint: Checkpoint) -> dict[str, Any]:
    release = find_release(options.triton)
    common = {"task": checkpoint.task, "trust_remote_code": options.trust_remote_code}
    if stage == "compact":
        return common
    if stage == "fuse":
        return {"level": "all"}
    if stage != "export":
        return {}
    return common | {
        "model_type": checkpoint.model_type,
        "max_length": checkpoint.max_length,
        "vocab_size": checkpoint.vocab_size,
        "max_opset": release.max_opset,
        "max_ir_version": release.max_ir_version,
    }


def _report(stage: JobResult, reference: JobResult, runner: JobRunner) -> StageReport:
    """Compare a stage's artifact with the reference and hold it against its tolerance."""
    costs = stage.seconds, stage.peak_bytes, stage.cached, stage.facts
    if stage.kind == "compact":
        size = sum(file.stat().st_size for file in stage.folder.glob("*.safetensors"))
        return StageReport(stage.kind, str(stage.folder), size, *costs, None)
    artifact = read_artifact(stage.folder)
    job = Job(
        "parity",
        {},
        {"artifact": stage.folder, "reference": reference.folder},
        {"artifact": stage.sha256, "reference": reference.sha256},
    )
    figures = runner.run(job).facts
    judge(figures, artifact.precision)
    return StageReport(stage.kind, str(stage.folder), artifact.size_bytes, *costs, figures)


def _config(options: BuildOptions, name: str, artifact: Artifact) -> ModelConfig:
    kind = "KIND_GPU" if options.device == "gpu" else "KIND_CPU"
    parameters = {"intra_op_thread_count": str(options.intra_op_thread_count)} if options.intra_op_thread_count else {}
    batching = DynamicBatching(options.max_queue_delay_microseconds) if options.batches_dynamically else None
    return from_graph(
        name,
        artifact.inputs,
        artifact.outputs,
        max_batch_size=options.max_batch_size,
        instance_group=InstanceGroup(kind, options.instances),
        num_versions=options.num_versions,
        dynamic_batching=batching,
        parameters=parameters,
    )


def _manifest(
    options: BuildOptions, name: str, checkpoint: Checkpoint, artifact: Artifact, reports: list[StageReport]
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
        "recipe": list(options.stages),
        "device": options.device,
        "max_length": options.max_length,
        "model_max_length": checkpoint.max_length,
        "pad_token_id": artifact.pad_token_id,
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
            }
            for report in reports
        ],
        "libraries": library_versions(),
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
    }
