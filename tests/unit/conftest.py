"""Builds of tiny checkpoints into a repository of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import MAX_LENGTH
from tritonsmith.build import build
from tritonsmith.options import BuildOptions

Build = Callable[..., Any]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def build_tiny(checkpoint: Callable[[str], Path], job_cache: Path, repository: Path) -> Build:
    def run(architecture: str = "bert", **options: Any) -> Any:
        model = str(options.pop("model", None) or checkpoint(architecture))
        defaults: dict[str, Any] = {"name": "m", "max_length": MAX_LENGTH, "repository": repository, "cache": job_cache}
        return build(BuildOptions(model, **(defaults | options)))

    return run
