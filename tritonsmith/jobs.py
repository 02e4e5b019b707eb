"""Heavy work as jobs: each in its own subprocess, its output a folder in a content-addressed cache.

A job's key is the hash of its kind, its options, the content of its inputs, the jobs' source code and the versions of the
libraries they call, so a rebuild that changes nothing runs nothing. A folder enters the cache by one rename: it is there
whole or not at all. A subprocess of its own gives every job its own peak memory, and gives it back.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from tritonsmith import errors
from tritonsmith.hashing import sha256_file, sha256_json
from tritonsmith.paths import ASSETS, PACKAGE

_MODULES = {
    "random": "tritonsmith.stages.random",
    "merge": "tritonsmith.stages.merge",
    "compact": "tritonsmith.stages.compact",
    "export": "tritonsmith.stages.export",
    "fuse": "tritonsmith.stages.fuse",
    "fp16": "tritonsmith.stages.fp16",
    "int8-dynamic": "tritonsmith.stages.int8_dynamic",
    "int8-static": "tritonsmith.stages.int8_static",
    "openvino": "tritonsmith.stages.openvino",
    "sensitivity": "tritonsmith.stages.sensitivity",
    "reference": "tritonsmith.verify.reference",
    "parity": "tritonsmith.verify.parity",
    "footprint": "tritonsmith.verify.footprint",
    "metric": "tritonsmith.verify.metric",
}
_LIBRARIES = ("nncf", "numpy", "onnx", "openvino", "optimum-onnx", "peft", "tokenizers", "torch", "transformers")
_RESULT = "result.json"
_LOG_LINES_KEPT = 400


@dataclass(frozen=True)
class Job:
    """A piece of work by what decides its output."""

    kind: str
    options: Mapping[str, Any]
    inputs: Mapping[str, Path]
    input_hashes: Mapping[str, str]

    def key(self) -> str:
        """Return the name of this job's output in the cache."""
        return sha256_json(
            {
                "kind": self.kind,
                "options": dict(self.options),
                "inputs": dict(self.input_hashes),
                "code": _code_hash(),
                "libraries": library_versions(),
            }
        )[:32]


@dataclass(frozen=True)
class JobResult:
    """A finished job: its output folder and what it cost when it ran."""

    kind: str
    folder: Path
    sha256: str
    facts: dict[str, Any]
    seconds: float
    peak_bytes: int
    cached: bool


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries whose behaviour ends up in an artifact."""
    versions = {name: _version(name) for name in _LIBRARIES}
    versions["onnxruntime"] = _version("onnxruntime") or _version("onnxruntime-gpu")
    return {name: version for name, version in versions.items() if version}


@cache
def _code_hash() -> str:
    """Hash what the jobs execute and the texts that they verify on."""
    modules = [path for folder in ("stages", "verify", "metrics") for path in (PACKAGE / folder).glob("*.py")]
    modules += [PACKAGE / name for name in ("artifact.py", "datasets.py", "engines.py", "inputs.py", "tasks.py", "worker.py")]
    modules.append(ASSETS / "texts.json")
    return sha256_json({str(path.relative_to(PACKAGE)): sha256_file(path) for path in modules})


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


class JobRunner:
    """Runs jobs one after another and keeps their outputs."""

    def __init__(self, cache: Path, on_start: Callable[[str], None] | None = None) -> None:
        """Use `cache` for outputs and logs; `on_start` is told a job's kind when it really runs."""
        self._jobs = cache / "jobs"
        self._logs = cache / "logs"
        self._on_start = on_start or (lambda _kind: None)
        self._jobs.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        self._drop_leftovers()

    def run(self, job: Job) -> JobResult:
        """Return the job's output, from the cache or by running it.

        Raises:
            TritonsmithError: the job failed; a message of its own, or the last line of its log.
        """
        folder = self._jobs / job.key()
        if (folder / _RESULT).is_file():
            return _read_result(job.kind, folder, cached=True)
        self._on_start(job.kind)
        staging = self._jobs / f".{folder.name}-{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            self._spawn(job, staging, self._logs / f"{job.kind}-{folder.name}.log")
            try:
                staging.rename(folder)
            except OSError:
                # Another process finished the same job first; its output is the same by construction.
                if not (folder / _RESULT).is_file():
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return _read_result(job.kind, folder, cached=False)

    def _spawn(self, job: Job, output: Path, log: Path) -> None:
        spec = {
            "module": _MODULES[job.kind],
            "options": dict(job.options),
            "inputs": {name: str(path) for name, path in job.inputs.items()},
            "output": str(output),
        }
        # Everything is local by now; a library that asks the hub anyway must not hang on it.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        # Two jobs may share the cores; threads that spin while they wait would take them from each other.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with (
            log.open("wb") as sink,
            subprocess.Popen(
                [sys.executable, "-m", "tritonsmith.worker"],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
            ) as process,
        ):
            try:
                process.communicate(json.dumps(spec).encode())
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise _error_of(job.kind, output, log, process.returncode)
        log.unlink()

    def _drop_leftovers(self) -> None:
        """Remove what killed processes left half-written."""
        for staging in self._jobs.glob(".*-*"):
            pid = staging.name.rpartition("-")[2]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(staging, ignore_errors=True)


def _read_result(kind: str, folder: Path, cached: bool) -> JobResult:
    result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    return JobResult(kind, folder, result["sha256"], result["facts"], result["seconds"], result["peak_bytes"], cached)


def _error_of(kind: str, output: Path, log: Path, code: int) -> errors.TritonsmithError:
    reported = output / "error.json"
    if reported.is_file():
        error = json.loads(reported.read_text(encoding="utf-8"))
        error_class: type[errors.TritonsmithError] = getattr(errors, error["type"])
        return error_class(error["message"])
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_KEPT:] if line.strip()]
    if code < 0:
        reason = f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    else:
        reason = lines[-1].strip() if lines else f"exit code {code}"
    return errors.StageError(f"{kind}: {reason} (full log: {log})")
