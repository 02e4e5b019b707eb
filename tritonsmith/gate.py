"""The gate that every artifact passes before anything is published: parity with the checkpoint, and the task's metric."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.artifact import read_artifact
from tritonsmith.checkpoint import Checkpoint
from tritonsmith.datasets import read_dataset, spread
from tritonsmith.errors import UsageError, VerificationError
from tritonsmith.hashing import sha256_file
from tritonsmith.jobs import Job, JobResult, JobRunner
from tritonsmith.metrics.scoring import Scores, check_scorable
from tritonsmith.options import BuildOptions
from tritonsmith.tasks import Task
from tritonsmith.verify import judge


@dataclass(frozen=True)
class MetricDrop:
    """How much of the checkpoint's metric an artifact may lose."""

    text: str
    """As the user wrote it: `1%` of the checkpoint's figure, or `0.5` points."""

    def least(self, baseline: float) -> float:
        """Return the least figure that is allowed where the checkpoint's is `baseline`."""
        if self.text.endswith("%"):
            return baseline - abs(baseline) * float(self.text[:-1]) / 100
        return baseline - float(self.text)


def parse_drop(text: str) -> MetricDrop:
    """Return what `--max-metric-drop` says.

    Raises:
        UsageError: neither a share such as 1% nor points such as 0.5.
    """
    if not re.fullmatch(r"\d+(\.\d+)?%?", text):
        raise UsageError(f"--max-metric-drop {text}: expected a share such as 1%, or points such as 0.5")
    return MetricDrop(text)


def check_datasets(options: BuildOptions, task: Task) -> None:
    """Raise UsageError for a dataset that cannot gate a build of `task`, or texts that cannot calibrate one."""
    parse_drop(options.max_metric_drop)
    if options.dataset is not None:
        check_scorable(task)
        spread(read_dataset(options.dataset, task), options.dataset_limit)
    if options.calibration is not None:
        read_dataset(options.calibration, task, "--calibration")


@dataclass(frozen=True)
class Verdict:
    """What was measured of an artifact that passed."""

    parity: dict[str, Any]
    metric: Scores | None
    """None without a dataset."""


class Gate:
    """Holds artifacts against the checkpoint that they were made from."""

    def __init__(self, options: BuildOptions, checkpoint: Checkpoint, export: JobResult, runner: JobRunner) -> None:
        """Answer the texts to compare on, and score the dataset, with the checkpoint in PyTorch.

        Raises:
            TritonsmithError: it cannot be done.
        """
        self._options = options
        self._runner = runner
        self._source = {"checkpoint": checkpoint.path, "artifact": export.folder}
        self._source_hashes = {"checkpoint": checkpoint.sha256, "artifact": export.sha256}
        trust = {"trust_remote_code": options.trust_remote_code}
        job = Job("reference", {"max_length": options.max_length, **trust}, self._source, self._source_hashes)
        self._reference = runner.run(job)
        self.baseline = self._score(self._source, self._source_hashes) if options.dataset else None

    def check(self, result: JobResult) -> Verdict:
        """Return the figures of an artifact.

        Raises:
            VerificationError: it is beyond the tolerance of its precision, or loses more of the metric than is allowed.
        """
        precision = read_artifact(result.folder).precision
        inputs = {"artifact": result.folder, "reference": self._reference.folder}
        hashes = {"artifact": result.sha256, "reference": self._reference.sha256}
        figures = self._runner.run(Job("parity", {}, inputs, hashes)).facts
        judge(figures, precision)
        if self.baseline is None:
            return Verdict(figures, None)
        scores = self._score({"artifact": result.folder}, {"artifact": result.sha256})
        self._judge_metric(scores, self.baseline, precision)
        return Verdict(figures, scores)

    def _score(self, inputs: dict[str, Path], hashes: dict[str, str]) -> Scores:
        dataset = self._options.dataset
        assert dataset is not None
        job = Job(
            "metric",
            {"max_length": self._options.max_length, "limit": self._options.dataset_limit},
            {**inputs, "dataset": dataset},
            {**hashes, "dataset": sha256_file(dataset)},
        )
        return Scores(**self._runner.run(job).facts)

    def _judge_metric(self, scores: Scores, baseline: Scores, precision: str) -> None:
        drop = parse_drop(self._options.max_metric_drop)
        least = drop.least(baseline.value)
        if scores.value < least:
            raise VerificationError(
                f"--max-metric-drop {drop.text}: the {precision} model's {scores.metric} is {scores.value:.2f}, "
                f"the checkpoint's {baseline.value:.2f}, at least {least:.2f} is asked; nothing was published"
            )
