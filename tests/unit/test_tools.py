"""What a user sees of every tool: help, and one clear line with the right exit code for what is wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunTool, one_error_line

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("tool", TOOLS)
def test_help(run_tool: RunTool, tool: str) -> None:
    done = run_tool(tool, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert len(done.stdout.split()) > 40


@pytest.mark.parametrize("tool", TOOLS)
def test_unknown_option(run_tool: RunTool, tool: str) -> None:
    done = run_tool(tool, "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in one_error_line(done)


WRONG = [
    ("build_repo", ["./missing"], 2, "no such folder"),
    ("build_repo", ["{empty}"], 2, "config.json"),
    ("build_repo", ["demo", "--task", "poetry"], 2, "--task poetry"),
    ("build_repo", ["demo", "--precision", "int3"], 2, "--precision int3"),
    ("build_repo", ["demo", "--device", "tpu"], 2, "--device tpu"),
    ("build_repo", ["demo", "--max-length", "513"], 2, "takes at most 512"),
    ("build_repo", ["demo", "--max-batch-size", "many"], 2, "--max-batch-size"),
    ("build_repo", ["demo", "--repository", "{file}"], 2, "is a file"),
    ("build_repo", [], 2, "Missing argument"),
    ("serve", ["--repository", "{empty}/missing"], 2, "no such folder"),
    ("serve", ["--repository", "{empty}"], 2, "holds no model"),
    ("serve", ["--repository", "{empty}", "--runtime", "podman"], 2, "--runtime podman"),
    ("serve", ["--repository", "{empty}", "--http-port", "70000"], 2, "--http-port 70000"),
    ("serve", ["--repository", "{empty}", "--model-control", "magic"], 2, "--model-control magic"),
    ("serve", ["--repository", "{empty}", "--stop"], 1, "no background server"),
    ("serve", ["--repository", "{empty}", "--status"], 1, "no background server"),
    ("benchmark", ["--url", "127.0.0.1:9"], 1, "is it running"),
    ("benchmark", ["--url", "127.0.0.1:9", "--protocol", "http"], 1, "is it running"),
    ("benchmark", ["--url", "nonsense"], 2, "expected host:port"),
    ("benchmark", ["--sequence-lengths", "32,x"], 2, "--sequence-lengths 32,x"),
    ("benchmark", ["--protocol", "carrier-pigeon"], 2, "--protocol carrier-pigeon"),
    ("benchmark", ["--json", "{empty}/missing/out.json"], 2, "folder does not exist"),
    ("evaluate", ["--dataset", "{file}"], 2, "nothing to score"),
    ("evaluate", ["--dataset", "{empty}/missing.json", "--checkpoint", "demo"], 2, "no such file"),
    ("evaluate", ["--dataset", "{file}", "--checkpoint", "demo"], 2, "not in SQuAD's JSON format"),
]


@pytest.mark.parametrize(("tool", "arguments", "code", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_input(run_tool: RunTool, tmp_path: Path, tool: str, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    filled = [argument.format(empty=tmp_path / "empty", file=tmp_path / "file") for argument in arguments]
    done = run_tool(tool, *filled)
    assert done.returncode == code, done.stderr
    assert message in one_error_line(done)
    assert done.stdout == ""
    assert not any((tmp_path / "empty").iterdir())


PYTHON_MODEL = (
    'name: "m" backend: "python" input { name: "x" data_type: TYPE_INT64 dims: 1 } '
    'output { name: "y" data_type: TYPE_INT64 dims: 1 } instance_group { kind: KIND_CPU count: 1 } '
)


@pytest.fixture
def repository(tmp_path: Path) -> Callable[[str], Path]:
    """A repository of another tool's with one model whose config.pbtxt is given; nothing in it is ever loaded."""

    def make(config: str) -> Path:
        folder = tmp_path / "repository" / "m"
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.py").write_bytes(b"")
        (folder / "config.pbtxt").write_text(config)
        return folder.parent

    return make


def test_gpu_model_without_a_gpu(run_tool: RunTool, repository: Callable[[str], Path]) -> None:
    folder = repository(PYTHON_MODEL.replace("KIND_CPU", "KIND_GPU"))
    done = run_tool("serve", "--repository", folder, "--runtime", "embedded")
    assert done.returncode == 1
    line = one_error_line(done)
    assert "KIND_GPU" in line
    assert "--device cpu" in line


def test_config_that_does_not_parse(run_tool: RunTool, repository: Callable[[str], Path]) -> None:
    done = run_tool("serve", "--repository", repository(PYTHON_MODEL + "\ncolour: 3"), "--runtime", "embedded")
    assert done.returncode == 1
    assert "m/config.pbtxt:2: Message type" in one_error_line(done)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_port_in_use(run_tool: RunTool, repository: Callable[[str], Path], taken_port: int) -> None:
    done = run_tool("serve", "--repository", repository(PYTHON_MODEL), "--runtime", "embedded", "--grpc-port", str(taken_port))
    assert done.returncode == 1
    assert f"--grpc-port {taken_port}: cannot be bound" in one_error_line(done)


@pytest.mark.parametrize("docker", [None, "#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n"])
def test_docker_without_an_engine_names_the_embedded_runtime(
    run_tool: RunTool, repository: Callable[[str], Path], tmp_path: Path, docker: str | None
) -> None:
    (tmp_path / "bin").mkdir()
    if docker is not None:
        (tmp_path / "bin" / "docker").write_text(docker)
        (tmp_path / "bin" / "docker").chmod(0o755)
    folder = repository(PYTHON_MODEL)
    done = run_tool("serve", "--repository", folder, "--runtime", "docker", env={"PATH": f"{tmp_path / 'bin'}:/nowhere"})
    assert done.returncode == 1
    assert "--runtime embedded" in one_error_line(done)


def test_docker_with_an_engine_runs_the_release_s_image(
    run_tool: RunTool, repository: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\necho 28.2\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    folder = repository(PYTHON_MODEL)
    arguments = ("--repository", folder, "--runtime", "docker", "--triton", "25.03", "--http-port", "0", "--dry-run")
    done = run_tool("serve", *arguments, env={"PATH": f"{tmp_path / 'bin'}:/bin:/usr/bin"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("docker run --rm")
    assert f"{folder}:/models:ro" in done.stdout
    assert "nvcr.io/nvidia/tritonserver:25.03-py3" in done.stdout
    assert "--gpus" not in done.stdout
