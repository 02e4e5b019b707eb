"""The ladder of a checkpoint: every rung built, loaded, measured in turns, and scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.artifact import read_artifact
from tritonsmith.bench.ladder import Rung, RungResult, measure
from tritonsmith.bench.peak import measure_peaks
from tritonsmith.checkpoint import Checkpoint
from tritonsmith.datasets import Example
from tritonsmith.engines import artifact_predictor, pytorch_predictor
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.jobs import Job, JobRunner
from tritonsmith.machine import describe
from tritonsmith.metrics.model import Model
from tritonsmith.metrics.scoring import Scores, score
from tritonsmith.options import BuildOptions
from tritonsmith.stage_runs import StageReport, run_stages


@dataclass(frozen=True)
class LadderOptions:
    """How to measure."""

    recipes: tuple[str, ...]
    lengths: tuple[int, ...]
    threads: int = 1
    rounds: int = 20
    warmup: int = 3
    compile_pytorch: bool = False
    """Add PyTorch's compiler in BF16, its own best; compiling takes a minute or more."""


@dataclass(frozen=True)
class RungReport:
    """A rung with all that was found of it."""

    measured: RungResult
    parameters: int
    peak_bytes: int
    """Of a process that loads it and answers the longest text."""
    gflops: dict[int, float]
    """Rate by length, in GFLOP/s: the arithmetic of the rung's own layers over its median latency."""
    arithmetic: str
    """fp32, bf16 or int8: what its matrix products run in."""
    metric: Scores | None


@dataclass(frozen=True)
class LadderReport:
    """A whole ladder."""

    model: str
    threads: int
    machine: dict[str, Any]
    peaks: dict[str, float]
    """GFLOP/s that a large matrix product reaches here, by arithmetic."""
    rungs: list[RungReport]
    notes: list[str]


@dataclass(frozen=True)
class Shape:
    """What decides how much an encoder computes."""

    hidden: int
    head_size: int
    layers: tuple[tuple[int, int], ...]
    """Attention heads and FFN neurons of each."""

    @classmethod
    def of(cls, folder: Path) -> Shape:
        """Read the shape of a checkpoint from its config.json; DistilBERT has its own names for the fields."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        hidden = int(config.get("hidden_size") or config["dim"])
        heads = int(config.get("num_attention_heads") or config["n_heads"])
        neurons = int(config.get("intermediate_size") or config["hidden_dim"])
        count = int(config.get("num_hidden_layers") or config["n_layers"])
        return cls(hidden, hidden // heads, ((heads, neurons),) * count)

    def compacted(self, layers: Sequence[Mapping[str, int]]) -> Shape:
        """Return the shape with the heads and neurons that the compact stage left."""
        return Shape(self.hidden, self.head_size, tuple((layer["heads"], layer["neurons"]) for layer in layers))

    def operations(self, length: int) -> float:
        """Return the floating-point operations of all matrix products on one text of `length` tokens; an addition is one."""
        total = 0
        for heads, neurons in self.layers:
            width = heads * self.head_size
            total += length * (4 * self.hidden * width + 2 * self.hidden * neurons) + 2 * length * length * width
        return 2.0 * total


@dataclass(frozen=True)
class _Step:
    """A rung before it is measured."""

    rung: Rung
    parameters: int
    peak_bytes: int
    shape: Shape
    arithmetic: str


def climb(
    checkpoint: Checkpoint,
    options: LadderOptions,
    examples: Sequence[Example],
    runner: JobRunner,
    on_step: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> LadderReport:
    """Build every rung of the recipes and measure them in turns against PyTorch eager in FP32.

    Args:
        checkpoint: the model.
        options: how.
        examples: what the metric is computed on; none: no metric.
        runner: runs the stages.
        on_step: told what is being done, and how much of it.

    Raises:
        TritonsmithError: a stage failed, or an artifact answers differently from the checkpoint.
    """
    on_step("building", 0, 1)
    builder = _Rungs(checkpoint, options, runner)
    steps = builder.steps()
    tokenizer = load_tokenizer(builder.artifact.path / "tokenizer.json")
    names = [spec.name for spec in builder.artifact.inputs]
    total, done = len(options.lengths) * (options.rounds + options.warmup), 0

    def on_round() -> None:
        nonlocal done
        done += 1
        on_step("measuring", done, total)

    peaks = measure_peaks(options.threads)
    rungs = [step.rung for step in steps]
    results = measure(rungs, builder.inputs(), list(options.lengths), options.rounds, options.warmup, on_round)
    reports = []
    for position, (step, result) in enumerate(zip(steps, results, strict=True)):
        on_step("scoring", position, len(steps) if examples else 0)
        labels = dict(enumerate(checkpoint.labels))
        model = Model(step.rung.engine, tokenizer, names, labels, min(384, checkpoint.max_length))
        metric = score(checkpoint.task, model, examples) if examples else None
        rates = {length: step.shape.operations(length) / summary.p50 / 1e6 for length, summary in result.latency.items()}
        reports.append(RungReport(result, step.parameters, step.peak_bytes, rates, step.arithmetic, metric))
    return LadderReport(checkpoint.source, options.threads, describe(), peaks, reports, builder.notes)


class _Rungs:
    """Builds the rungs of a checkpoint one by one."""

    def __init__(self, checkpoint: Checkpoint, options: LadderOptions, runner: JobRunner) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._runner = runner
        self._shape = Shape.of(checkpoint.path)
        self._steps: dict[str, _Step] = {}
        self.notes: list[str] = []
        length = max(*options.lengths, 32)
        self._runs = [
            (recipe, *run_stages(BuildOptions(checkpoint.source, recipe=recipe, max_length=length), checkpoint, runner))
            for recipe in options.recipes
        ]
        self.artifact = self._runs[0][2]

    def inputs(self) -> TextInputs:
        """Return the maker of feeds."""
        names = [spec.name for spec in self.artifact.inputs]
        tokenizer = load_tokenizer(self.artifact.path / "tokenizer.json")
        return TextInputs(tokenizer, self._checkpoint.task, names, self.artifact.pad_token_id)

    def steps(self) -> list[_Step]:
        """Return PyTorch's rungs, then each stage of each recipe once."""
        source, shape = self._checkpoint.path, self._shape
        self._steps["PyTorch FP32"] = self._pytorch("PyTorch FP32", source, shape)
        self._steps["PyTorch BF16"] = self._pytorch("PyTorch BF16", source, shape, bfloat16=True)
        if self._options.compile_pytorch:
            self._add_compiled()
        for recipe, reports, _artifact, _baseline in self._runs:
            self._add_recipe(recipe.split(","), reports)
        return list(self._steps.values())

    def _add_compiled(self) -> None:
        try:
            step = self._pytorch("PyTorch BF16 compiled", self._checkpoint.path, self._shape, bfloat16=True, compiled=True)
            for length in self._options.lengths:
                step.rung.engine(self.inputs().exact(length))
        except Exception as error:  # the compiler's own failures are of many kinds
            self.notes.append(f"PyTorch's compiler does not work here: {str(error).strip().splitlines()[0]}")
            return
        self._steps[step.rung.name] = step

    def _add_recipe(self, stages: list[str], reports: list[StageReport]) -> None:
        folder, shape = self._checkpoint.path, self._shape
        for position, report in enumerate(reports):
            name = " + ".join(stages[: position + 1])
            output = Path(report.folder)
            if report.stage == "compact":
                folder, shape = output, self._shape.compacted(report.facts["layers"])
            if name in self._steps:
                continue
            if report.stage == "compact":
                self._steps[name] = self._pytorch("compact (PyTorch FP32)", output, shape)
            else:
                engine = artifact_predictor(output, self._options.threads)
                footprint = self._footprint({"artifact": output})
                arithmetic = "int8" if read_artifact(output).precision == "int8" else "fp32"
                rung = Rung(name, report.size_bytes, engine)
                self._steps[name] = _Step(rung, parameters(folder), footprint, shape, arithmetic)

    def _pytorch(self, name: str, folder: Path, shape: Shape, bfloat16: bool = False, compiled: bool = False) -> _Step:
        engine = pytorch_predictor(folder, self._checkpoint.task, self._options.threads, bfloat16, compiled)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) // (2 if bfloat16 else 1)
        footprint = self._footprint({"checkpoint": folder}, bfloat16)
        return _Step(Rung(name, size, engine), parameters(folder), footprint, shape, "bf16" if bfloat16 else "fp32")

    def _footprint(self, inputs: dict[str, Path], bfloat16: bool = False) -> int:
        inputs = {"artifact": self.artifact.path, **inputs}
        # A folder of the cache is named by what made it; a user's own is pinned by the checkpoint's hash.
        hashes = {side: f"{path.name} {self._checkpoint.sha256}" for side, path in inputs.items()}
        options = {"length": max(self._options.lengths), "bfloat16": bfloat16}
        return self._runner.run(Job("footprint", options, inputs, hashes)).peak_bytes


def parameters(folder: Path) -> int:
    """Return how many numbers a checkpoint's weights are, read from the headers of its safetensors files."""
    from safetensors import safe_open

    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 (no mapping)
                size = 1
                for dim in weights.get_slice(name).get_shape():
                    size *= int(dim)
                count += size
    return count
