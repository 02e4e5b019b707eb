"""Publishing: whole or not at all, unchanged content not again, older versions never touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tritonsmith.errors import RepositoryError
from tritonsmith.hashing import sha256_file
from tritonsmith.repository.layout import ModelFolder, served_versions
from tritonsmith.repository.model_config import ModelConfig
from tritonsmith.repository.publish import Published, publish
from tritonsmith.repository.rendering import parse, render


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def config(name: str = "m", **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, "backend": "onnxruntime", **fields})


def put(repository: Path, content: str = "one", name: str = "m", warmup: str = "", **fields: Any) -> Published:
    source = repository.parent / "model.onnx"
    source.write_text(content)
    files = {warmup: warmup.encode()} if warmup else {}
    return publish(repository, name, {"model.onnx": source}, config(name, **fields), {"made": "by a test"}, files)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}


def test_first_version(repository: Path) -> None:
    published = put(repository)
    model = ModelFolder(repository / "m")
    assert (published.version, published.new) == (1, True)
    assert model.config.read_text() == render(config())
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


@pytest.mark.parametrize("change", [{"content": "two"}, {"max_batch_size": 4}])
def test_changed_content_is_the_next_version(repository: Path, change: dict[str, Any]) -> None:
    first = put(repository)
    before = snapshot(first.folder)
    second = put(repository, **change)
    assert (second.version, second.new) == (2, True)
    assert snapshot(first.folder) == before
    change.pop("content", None)
    assert ModelFolder(repository / "m").config.read_text() == render(config(**change))
    assert ModelFolder(repository / "m").description(2) == config(**change)


def test_edited_config_is_restored_and_said(repository: Path) -> None:
    put(repository)
    (repository / "m" / "config.pbtxt").write_text("edited")
    published = put(repository)
    assert (published.new, published.config_restored) == (False, True)
    assert (repository / "m" / "config.pbtxt").read_text() == render(config())


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
        publish(repository, "m", {"model.onnx": tmp_path / "missing"}, config(), {})
    assert snapshot(repository) == before


def test_repository_that_is_a_file(repository: Path) -> None:
    repository.write_text("")
    with pytest.raises(RepositoryError, match="--repository"):
        put(repository)


# Publishes versions one after another, for the parent to kill.
_PUBLISHER = """
import sys
from pathlib import Path
from tritonsmith.repository.model_config import ModelConfig
from tritonsmith.repository.publish import publish
repository = Path(sys.argv[1])
source = repository.parent / "big"
for number in range(1000):
    source.write_bytes(bytes([number % 256]) * 300_000)
    config = ModelConfig(name="m", backend="onnxruntime", max_batch_size=number % 3 * 4)
    publish(repository, "m", {"model.onnx": source, "more": source}, config, {})
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
        .replace("number % 3 * 4", "int(sys.argv[2])")
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, repository, str(n)], stdout=subprocess.DEVNULL) for n in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    versions = ModelFolder(repository / "m").versions
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) >= 5
    assert os.listdir(repository) == ["m"]  # noqa: PTH208


def loadable(model: ModelFolder) -> None:
    """Hold a model against what Triton needs: a policy that serves whole versions, each with the configuration's tensors."""
    message = parse(model.config.read_text(), "config.pbtxt")
    served = served_versions(message, model.versions)
    assert served
    for version in model.versions:
        manifest = model.manifest(version)
        assert manifest is not None
        assert {name: sha256_file(model.version(version) / name) for name in manifest["files"]} == manifest["files"]
    for version in served:
        described = model.description(version)
        assert described is not None
        assert (described.max_batch_size, described.backend) == (message.max_batch_size, message.backend)
    for entry in message.model_warmup:
        assert all((model.warmup / given.input_data_file).is_file() for given in entry.inputs.values())


# Kills itself at the N-th call that changes the disk.
_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_publish import put, warm
left = int(sys.argv[2])
def strike(event, _arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.copyfile"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(strike)
put(Path(sys.argv[1]), "new", **warm("later", max_batch_size=4))
"""


def warm(file: str, **fields: Any) -> dict[str, Any]:
    given = {"data_type": "TYPE_INT64", "dims": [1], "input_data_file": file}
    return {"warmup": file, "model_warmup": [{"name": "w", "batch_size": 1, "inputs": {"ids": given}}], **fields}


def test_killed_at_every_step_the_repository_stays_loadable(repository: Path) -> None:
    """The new version has another configuration: neither fits with the other's."""
    processes, steps = [], range(1, 60)
    for step in steps:
        folder = repository.parent / str(step) / "repository"
        folder.parent.mkdir()
        put(folder, **warm("earlier"))
        code = [sys.executable, "-c", _KILLED, str(folder), str(step)]
        processes.append((folder, subprocess.Popen(code, cwd=ROOT)))
        if len(processes) % 4 == 0:
            processes[-4][1].wait()
    codes = [process.wait() for _folder, process in processes]
    assert codes.count(0) >= 1, "the steps end before the publishing does"
    assert codes.count(-9) >= 20
    states = set()
    for folder, _process in processes:
        model = ModelFolder(folder / "m")
        loadable(model)
        states.add((len(model.versions), parse(model.config.read_text(), "").version_policy.WhichOneof("policy_choice")))
        assert put(folder, "new", **warm("later", max_batch_size=4)).version == 2
        loadable(model)
        assert parse(model.config.read_text(), "").max_batch_size == 4
        assert not list(folder.parent.glob(".repository.staging*"))
    assert {(1, None), (1, "specific"), (2, "specific"), (2, None)} <= states


def test_a_configuration_that_an_older_served_version_does_not_fit(repository: Path) -> None:
    put(repository)
    with pytest.raises(RepositoryError, match="version 1 has another max_batch_size"):
        put(repository, max_batch_size=4, version_policy={"latest": {"num_versions": 2}})
    assert ModelFolder(repository / "m").versions == [1]
    put(repository, "two", version_policy={"latest": {"num_versions": 2}})
    assert ModelFolder(repository / "m").versions == [1, 2]
