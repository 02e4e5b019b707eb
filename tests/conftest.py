"""Fixtures that are dear to make, made once a session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import checkpoints

ROOT = Path(__file__).resolve().parent.parent
RunTool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny checkpoint by its architecture."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def get(architecture: str) -> Path:
        target = folder / architecture
        return target if target.is_dir() else checkpoints.make(target, architecture)

    return get


@pytest.fixture(scope="session")
def job_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job cache shared by the session, apart from the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def run_tool() -> RunTool:
    """Run a tool as a user does, and return its exit code and output."""

    def run(
        name: str, *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / "tools" / f"{name}.py", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            cwd=cwd,
            timeout=300,
        )

    return run


def one_error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the single line that a failed tool must have ended with."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in done.stderr
    return lines[0]
