"""Servers in the background: started, found again and stopped by the repository that they serve."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tritonsmith.errors import ServerError
from tritonsmith.hashing import sha256_json

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Detached:
    """A background server as its state file tells it."""

    pid: int
    started: float
    """The process's start time (seconds since the epoch): a pid alone may have been given to another process since."""
    http_url: str
    grpc_url: str
    log: str

    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def _state_file(cache: Path, repository: Path) -> Path:
    return cache / "servers" / f"{sha256_json(str(repository.resolve()))[:16]}.json"


def find(cache: Path, repository: Path) -> Detached | None:
    """Return the background server of a repository, None if none runs."""
    file = _state_file(cache, repository)
    try:
        detached = Detached(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return detached if detached.is_alive() else None


def record(cache: Path, repository: Path, http_url: str, grpc_url: str, log: Path) -> None:
    """Record this process as the background server of `repository`; called when it is ready."""
    file = _state_file(cache, repository)
    file.parent.mkdir(parents=True, exist_ok=True)
    state = Detached(os.getpid(), psutil.Process().create_time(), http_url, grpc_url, str(log))
    staging = file.with_suffix(f".{os.getpid()}")
    staging.write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
    staging.replace(file)


def forget(cache: Path, repository: Path) -> None:
    """Remove the record of a server that has ended."""
    _state_file(cache, repository).unlink(missing_ok=True)


def start(cache: Path, repository: Path, arguments: Sequence[str]) -> Detached:
    """Start `arguments` (serve.py in the foreground, told to record itself) in the background and wait until it is ready.

    Raises:
        ServerError: one runs already, or it ended before it was ready; its last line is in the message.
    """
    running = find(cache, repository)
    if running:
        raise ServerError(
            f"--detach: {repository} is served already (process {running.pid}, gRPC {running.grpc_url}); --stop it first"
        )
    log = log_file(cache, repository)
    log.parent.mkdir(parents=True, exist_ok=True)
    forget(cache, repository)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while process.poll() is None:
        detached = find(cache, repository)
        if detached and detached.pid == process.pid:
            return detached
        time.sleep(_POLL_SECONDS)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()] or ["no output"]
    raise ServerError(lines[-1].removeprefix("error: "))


def log_file(cache: Path, repository: Path) -> Path:
    """Return where a background server of `repository` writes its log."""
    return _state_file(cache, repository).with_suffix(".log")


def stop(cache: Path, repository: Path, timeout_s: float) -> Detached:
    """Drain and stop the background server of a repository.

    Raises:
        ServerError: none runs, or it did not end in time.
    """
    detached = find(cache, repository)
    if detached is None:
        raise ServerError(f"--stop: no background server of {repository} is running")
    os.kill(detached.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while detached.is_alive():
        if time.monotonic() > deadline:
            raise ServerError(f"--stop: process {detached.pid} did not end within {timeout_s:.0f} s; its log: {detached.log}")
        time.sleep(_POLL_SECONDS)
    forget(cache, repository)
    return detached
