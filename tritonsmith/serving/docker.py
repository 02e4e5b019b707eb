"""The docker runtime: the NGC container of the chosen release on the same repository folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tritonsmith.errors import RuntimeUnavailableError
from tritonsmith.releases import Release
from tritonsmith.serving.options import Ports

_QUERY_TIMEOUT_S = 20
_SHARED_MEMORY = "1g"


def command(
    repository: Path, release: Release, ports: Ports, host: str, flags: Sequence[str], gpus: bool, name: str
) -> list[str]:
    """Return the `docker run` command: ports published on `host`, the repository mounted read-only."""
    published = [
        argument
        for outside, inside in ((ports.http, 8000), (ports.grpc, 8001), (ports.metrics, 8002))
        for argument in ("--publish", f"{host}:{outside}:{inside}")
    ]
    return [
        "docker",
        "run",
        "--rm",
        "--name",
        name,
        "--shm-size",
        _SHARED_MEMORY,
        *(("--gpus", "all") if gpus else ()),
        *published,
        "--volume",
        f"{repository}:/models:ro",
        release.image,
        "tritonserver",
        "--model-repository=/models",
        *flags,
    ]


def engine_problem() -> str | None:
    """Return why no container can be run here, None if one can."""
    if shutil.which("docker") is None:
        return "the docker command is not installed"
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=_QUERY_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"the Docker engine did not answer within {_QUERY_TIMEOUT_S} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["docker info failed"]
        return lines[-1]
    return None


def require_engine() -> None:
    """Raise RuntimeUnavailableError, which names the embedded runtime, if no Docker engine answers."""
    problem = engine_problem()
    if problem:
        raise RuntimeUnavailableError(f"--runtime docker: {problem}; use --runtime embedded, which needs no Docker")


def has_image(release: Release) -> bool:
    """Whether the release's image has been pulled."""
    done = subprocess.run(
        ["docker", "image", "inspect", release.image],  # noqa: S607
        capture_output=True,
        check=False,
        timeout=_QUERY_TIMEOUT_S,
    )
    return done.returncode == 0


def gpu_count() -> int:
    """Return how many NVIDIA GPUs of this machine its driver answers for."""
    if shutil.which("nvidia-smi") is None:
        return 0
    done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.count("GPU ") if done.returncode == 0 else 0
