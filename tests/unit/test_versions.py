"""Versions: listed, compared, promoted, rolled back, pruned; what is served is the policy alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import RunTool, one_error_line
from tests.unit.conftest import Build
from tritonsmith.errors import RepositoryError, UsageError
from tritonsmith.preflight.check import check_repository
from tritonsmith.preflight.model import Target
from tritonsmith.releases import find_release
from tritonsmith.repository import versions
from tritonsmith.repository.layout import ModelFolder


@pytest.fixture
def model(build_tiny: Build, repository: Path) -> ModelFolder:
    """Three versions: FP32, INT8 with warm-up requests, FP32 without a batch dimension."""
    build_tiny()
    build_tiny(precision="int8", preset="latency", lengths=(16,))
    build_tiny(max_batch_size=0)
    return ModelFolder(repository / "m")


def test_list(model: ModelFolder) -> None:
    found = versions.list_versions(model)
    assert [(version.number, version.served) for version in found] == [(1, False), (2, False), (3, True)]
    assert all(version.size_bytes for version in found)
    assert [version.changed_files for version in found] == [[], [], []]


def test_diff_tells_what_differs_and_only_that(model: ModelFolder) -> None:
    lines = versions.diff(model, 1, 2)
    assert '-precision: "fp32"' in lines
    assert '+precision: "int8"' in lines
    assert any(line.startswith("+int8-dynamic.parity.relative_l2") for line in lines)
    assert '+warm-up: "16 tokens, batch 1"' in lines
    assert not any("source" in line or "libraries" in line or "model_warmup" in line for line in lines)
    assert "-max_batch_size: 8" in versions.diff(model, 1, 3)
    assert versions.diff(model, 2, 2) == []


def test_rollback_and_promote_bring_the_configuration_with_the_version(model: ModelFolder) -> None:
    target = Target(find_release("24.10"))
    assert versions.rollback(model) == 2
    assert versions.served_now(model) == [2]
    assert "model_warmup" in (model.read_config() or "")
    assert check_repository(model.path.parent, target) == []
    assert versions.rollback(model) == 1
    assert "model_warmup" not in (model.read_config() or "")
    with pytest.raises(RepositoryError, match="no version before 1"):
        versions.rollback(model)
    versions.promote(model, [3])
    assert versions.served_now(model) == [3]
    assert "max_batch_size: 0" in (model.read_config() or "")
    assert check_repository(model.path.parent, target) == []


def test_several_versions_at_once_must_fit_together(model: ModelFolder) -> None:
    versions.promote(model, [2, 1])
    assert versions.served_now(model) == [1, 2]
    with pytest.raises(RepositoryError, match="version 1 has another input"):
        versions.promote(model, [1, 3])
    assert versions.served_now(model) == [1, 2]


def test_a_version_that_has_changed_is_not_served(model: ModelFolder) -> None:
    file = model.version(1) / "tokenizer.json"
    file.chmod(0o644)
    file.write_text("{}")
    with pytest.raises(RepositoryError, match=r"1/tokenizer.json: is not as it was published"):
        versions.promote(model, [1])
    assert versions.served_now(model) == [3]


def test_a_build_after_a_rollback_is_served(model: ModelFolder, build_tiny: Build) -> None:
    versions.promote(model, [1])
    assert build_tiny(precision="fp16").published.version == 4
    assert versions.served_now(model) == [4]


def test_prune_keeps_what_is_served(model: ModelFolder) -> None:
    versions.promote(model, [1])
    assert versions.prune(model, 1) == [2]
    assert model.versions == [1, 3]
    assert not model.warmup.exists()
    assert not list(model.path.parent.parent.glob(".repository.staging*"))
    assert versions.prune(model, 1) == []
    with pytest.raises(UsageError, match="--keep 0"):
        versions.prune(model, 0)


def test_prune_keeps_the_files_of_versions_that_stay(model: ModelFolder) -> None:
    assert versions.prune(model, 2) == [1]
    assert len(list(model.warmup.iterdir())) == 3


def test_the_tool(run_tool: RunTool, model: ModelFolder) -> None:
    here = ("--repository", model.path.parent)
    listed = run_tool("versions", "list", "m", *here, "--json")
    assert [entry["served"] for entry in json.loads(listed.stdout)] == [False, False, True]
    table = run_tool("versions", "list", "m", *here)
    assert "intact" in table.stdout
    assert "-max_batch_size: 8" in run_tool("versions", "diff", "m", "1", "3", *here).stdout
    assert "serves 2" in run_tool("versions", "rollback", "m", *here).stderr
    assert "serves 1, 2" in run_tool("versions", "promote", "m", "1", "2", *here).stderr
    assert "removed 3" not in run_tool("versions", "prune", "m", "--keep", "1", *here).stderr
    for arguments, code, message in (
        (("promote", "m", "9"), 1, "no version 9; there are 1, 2, 3"),
        (("list", "nobody"), 2, "not in"),
        (("list", "../elsewhere"), 2, "there are m"),
        (("prune", "m", "--keep", "0"), 2, "--keep 0"),
        (("promote", "m", "1", "--url", "127.0.0.1:9"), 1, "is it running"),
    ):
        done = run_tool("versions", *arguments, *here)
        assert done.returncode == code, done.stderr
        assert message in one_error_line(done)
    assert versions.served_now(model) == [1, 2]
