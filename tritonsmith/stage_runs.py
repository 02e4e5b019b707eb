"""The stages of a build, one after another; every artifact held against the checkpoint; INT8 mixed where it costs too much."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.artifact import Artifact, read_artifact
from tritonsmith.checkpoint import Checkpoint
from tritonsmith.errors import VerificationError
from tritonsmith.gate import Gate
from tritonsmith.hashing import sha256_file
from tritonsmith.jobs import Job, JobResult, JobRunner
from tritonsmith.metrics.scoring import Scores
from tritonsmith.options import BuildOptions
from tritonsmith.releases import find_release

_QUANTISERS = ("int8-dynamic", "int8-static", "openvino")
_LARGE_BYTES = 10**9
_CALIBRATED = ("int8-static", "openvino", "sensitivity")


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
    metric: Scores | None
    """None without a dataset, and for a stage that makes a checkpoint."""


def run_stages(
    options: BuildOptions, checkpoint: Checkpoint, runner: JobRunner
) -> tuple[list[StageReport], Artifact, Scores | None]:
    """Run the recipe's stages one after another, then hold every artifact against the checkpoint that the user gave.

    An INT8 artifact that does not pass is made again with the nodes left in floating point that lose most, as few as do.

    Returns:
        What was found of each stage, the last stage's artifact, and the checkpoint's own metric where a dataset is given.

    Raises:
        TritonsmithError: a stage failed, or an artifact did not pass.
    """
    return _StageRuns(options, checkpoint, runner).run()


class _StageRuns:
    def __init__(self, options: BuildOptions, checkpoint: Checkpoint, runner: JobRunner) -> None:
        self._options = options
        self._checkpoint = checkpoint
        self._runner = runner

    def run(self) -> tuple[list[StageReport], Artifact, Scores | None]:
        """Run the stages, and beside them what verifies the ones before."""
        reports: list[Future[StageReport]] = []
        gate: Future[Gate] | None = None
        side, folder, sha256 = "checkpoint", self._checkpoint.path, self._checkpoint.sha256
        with ThreadPoolExecutor(max_workers=1) as verifier:
            try:
                for stage in self._options.stages:
                    job = self._job(stage, side, folder, sha256)
                    result = self._runner.run(job)
                    folder, sha256 = result.folder, result.sha256
                    if stage == "export":
                        side = "artifact"
                        gate = verifier.submit(Gate, self._options, self._checkpoint, result, self._runner)
                    reports.append(verifier.submit(self._report, job, result, gate))
                    if self._is_large:
                        wait(reports)
            except BaseException:
                verifier.shutdown(cancel_futures=True)
                raise
            done = [report.result() for report in reports]
        assert gate is not None  # every recipe has an export
        return done, read_artifact(Path(done[-1].folder)), gate.result().baseline

    @property
    def _is_large(self) -> bool:
        """Whether two jobs at once could be too much for the memory."""
        return sum(file.stat().st_size for file in self._checkpoint.path.glob("*.safetensors")) > _LARGE_BYTES

    def _job(self, stage: str, side: str, folder: Path, sha256: str) -> Job:
        inputs, hashes = {side: folder}, {side: sha256}
        calibration = self._options.calibration
        if stage in _CALIBRATED and calibration is not None:
            inputs["calibration"], hashes["calibration"] = calibration, sha256_file(calibration)
        return Job(stage, self._stage_options(stage), inputs, hashes)

    def _stage_options(self, stage: str) -> dict[str, Any]:
        options, checkpoint = self._options, self._checkpoint
        release = find_release(options.triton)
        common = {"task": checkpoint.task, "trust_remote_code": options.trust_remote_code}
        chosen: dict[str, dict[str, Any]] = {
            "compact": common,
            "export": common
            | {
                "model_type": checkpoint.model_type,
                "max_length": checkpoint.max_length,
                "vocab_size": checkpoint.vocab_size,
                "labels": list(checkpoint.labels),
                "max_opset": release.max_opset,
                "max_ir_version": release.max_ir_version,
            },
            "fuse": {"level": options.fuse_level},
            "fp16": {"max_length": options.max_length},
            "int8-dynamic": {"exclude": []},
            "int8-static": {"exclude": [], "max_length": options.max_length, "symmetric": options.device == "gpu"},
            "openvino": {"exclude": [], "max_length": options.max_length},
            "sensitivity": {"max_length": options.max_length, "embeddings": options.stages[-1] != "int8-static"},
        }
        return chosen[stage]

    def _report(self, job: Job, result: JobResult, ready: Future[Gate] | None) -> StageReport:
        """Hold a stage's artifact against the checkpoint; one that makes a checkpoint has checked itself."""
        if ready is None:
            size = sum(file.stat().st_size for file in result.folder.glob("*.safetensors"))
            return _stage_report(result, size, None, None)
        gate = ready.result()
        try:
            return self._checked(result, gate)
        except VerificationError as error:
            if result.kind not in _QUANTISERS or not self._options.mixed_precision:
                raise
            return self._mixed(job, gate, error)

    def _checked(self, result: JobResult, gate: Gate) -> StageReport:
        verdict = gate.check(result)
        return _stage_report(result, read_artifact(result.folder).size_bytes, verdict.parity, verdict.metric)

    def _mixed(self, job: Job, gate: Gate, error: VerificationError) -> StageReport:
        """Quantise again without the worst nodes, first 1, 2, 4, ... of them, then by halving, until the fewest are found."""
        folder, sha256 = job.inputs["artifact"], job.input_hashes["artifact"]
        ranking = self._runner.run(self._job("sensitivity", "artifact", folder, sha256)).facts["nodes"]
        names = [name for name, _ratio in ranking]
        too_few, enough, report = 0, 1, None
        while report is None:
            report = self._attempt(job, names[:enough], gate)
            if report is None and enough >= len(names) // 2:
                raise VerificationError(
                    f"{error}; leaving the worst {enough} of {len(names)} nodes in floating point does not mend it"
                )
            if report is None:
                too_few, enough = enough, min(2 * enough, max(len(names) // 2, 1))
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            attempt = self._attempt(job, names[:middle], gate)
            if attempt is None:
                too_few = middle
            else:
                enough, report = middle, attempt
        return report

    def _attempt(self, job: Job, exclude: list[str], gate: Gate) -> StageReport | None:
        again = Job(job.kind, {**job.options, "exclude": exclude}, job.inputs, job.input_hashes)
        try:
            return self._checked(self._runner.run(again), gate)
        except VerificationError:
            return None


def _stage_report(result: JobResult, size: int, parity: dict[str, Any] | None, metric: Scores | None) -> StageReport:
    costs = result.seconds, result.peak_bytes, result.cached, result.facts
    return StageReport(result.kind, str(result.folder), size, *costs, parity, metric)
