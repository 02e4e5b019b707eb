"""Publishing: whole or not at all, unchanged content not again, older versions never touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonsmith.errors import RepositoryError
from tritonsmith.hashing import sha256_file
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.repository.publish import Published, publish


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def put(repository: Path, content: str = "one", config: str = 'name: "m"\n', name: str = "m") -> Published:
    source = repository.parent / "model.onnx"
    source.write_text(content)
    return publish(repository, name, {"model.onnx": source}, config, {"made": "by a test"})


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}


def test_first_version(repository: Path) -> None:
    published = put(repository)
    model = ModelFolder(repository / "m")
    assert (published.version, published.new) == (1, True)
    assert model.config.read_text() == 'name: "m"\n'
    manifest = model.manifest(1)
    assert manifest is not None
    assert manifest["files"] == {"model.onnx": sha256_file(model.version(1) / "model.onnx")}
    assert manifest["made"] == "by a test"
    assert not list(repository.parent.glob(".repository*"))


def test_folders_are_readable_by_the_container_s_user(repository: Path) -> None:
    published = put(repository)
    for path in (repository / "m", published.folder):
        assert path.stat().st_mode & 0o055 == 0o055
    assert (published.folder / "model.onnx").stat().st_mode & 0o777 == 0o444


def test_same_content_is_not_published_again(repository: Path) -> None:
    put(repository)
    before = snapshot(repository)
    published = put(repository)
    assert (published.version, published.new, published.config_restored) == (1, False, False)
    assert snapshot(repository) == before


@pytest.mark.parametrize("change", [{"content": "two"}, {"config": 'name: "m"\nmax_batch_size: 4\n'}])
def test_changed_content_is_the_next_version(repository: Path, change: dict[str, str]) -> None:
    first = put(repository)
    before = snapshot(first.folder)
    second = put(repository, **change)
    assert (second.version, second.new) == (2, True)
    assert snapshot(first.folder) == before
    assert ModelFolder(repository / "m").config.read_text() == change.get("config", 'name: "m"\n')


def test_edited_config_is_restored_and_said(repository: Path) -> None:
    put(repository)
    (repository / "m" / "config.pbtxt").write_text("edited")
    published = put(repository)
    assert (published.new, published.config_restored) == (False, True)
    assert (repository / "m" / "config.pbtxt").read_text() == 'name: "m"\n'


def test_model_of_another_maker_is_left_alone(repository: Path) -> None:
    (repository / "m" / "1").mkdir(parents=True)
    (repository / "m" / "1" / "model.onnx").write_text("theirs")
    with pytest.raises(RepositoryError, match="not made by tritonsmith"):
        put(repository)
    assert [entry.name for entry in (repository / "m").iterdir()] == ["1"]


def test_failing_source_publishes_nothing(repository: Path, tmp_path: Path) -> None:
    put(repository)
    before = snapshot(repository)
    with pytest.raises(RepositoryError, match="cannot be written"):
        publish(repository, "m", {"model.onnx": tmp_path / "missing"}, "", {})
    assert snapshot(repository) == before


def test_repository_that_is_a_file(repository: Path) -> None:
    repository.write_text("")
    with pytest.raises(RepositoryError, match="--repository"):
        put(repository)


# Publishes versions one after another, for the parent to kill.
_PUBLISHER = """
import sys
from pathlib import Path
from tritonsmith.repository.publish import publish
repository = Path(sys.argv[1])
source = repository.parent / "big"
for number in range(1000):
    source.write_bytes(bytes([number % 256]) * 300_000)
    publish(repository, "m", {"model.onnx": source, "more": source}, f"# {number}", {})
    print(number, flush=True)
"""


def test_killed_publishers_leave_whole_versions(repository: Path) -> None:
    repository.mkdir()
    for round_number in range(6):
        process = subprocess.Popen([sys.executable, "-c", _PUBLISHER, repository], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(round_number + 1):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
    model = ModelFolder(repository / "m")
    assert model.versions == list(range(1, len(model.versions) + 1))
    assert len(model.versions) >= 6
    for version in model.versions:
        manifest = model.manifest(version)
        assert manifest is not None
        assert {name: sha256_file(model.version(version) / name) for name in ("model.onnx", "more")} == manifest["files"]
    put(repository, name="other")
    assert sorted(entry.name for entry in repository.iterdir()) == ["m", "other"]
    assert not list(repository.parent.glob(".repository.staging*"))


def test_publishers_at_once_take_turns(repository: Path) -> None:
    code = (
        _PUBLISHER.replace("range(1000)", "range(5)")
        .replace('"big"', 'f"big{sys.argv[2]}"')
        .replace('f"# {number}"', "sys.argv[2]")
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, repository, str(n)], stdout=subprocess.DEVNULL) for n in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    versions = ModelFolder(repository / "m").versions
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) >= 5
    assert os.listdir(repository) == ["m"]  # noqa: PTH208
