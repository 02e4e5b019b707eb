"""The life of a server: refused models, a process that dies, draining, the background, and the tools against it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import ROOT, RunTool, one_error_line
from tests.integration.conftest import Served
from tritonsmith.client import Client
from tritonsmith.errors import ServerError, TritonsmithError
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.serving.health import check_model
from tritonsmith.serving.options import Ports, ServeOptions
from tritonsmith.serving.server import running, watch


@pytest.fixture
def bert_only(repository: Path, tmp_path: Path) -> Path:
    """A repository of its own with one tiny model, free to be spoiled."""
    folder = tmp_path / "repository"
    shutil.copytree(repository / "bert", folder / "bert")
    for file in folder.rglob("*"):
        file.chmod(0o755)
    return folder


def edit(repository: Path, old: str, new: str) -> None:
    config = repository / "bert" / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def serve_embedded(run_tool: RunTool, repository: Path) -> str:
    """Serve a repository that cannot be served; return the one error line."""
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    done = run_tool("serve", "--repository", repository, "--runtime", "embedded", "--no-check", *ports)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.strip().endswith(errors[0])
    return errors[0]


def test_corrupt_onnx_is_named(run_tool: RunTool, bert_only: Path) -> None:
    (bert_only / "bert" / "1" / "model.onnx").write_bytes(b"not a model")
    line = serve_embedded(run_tool, bert_only)
    assert "bert" in line
    assert "cannot load model.onnx" in line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TYPE_INT64", "TYPE_INT32", "TYPE_INT32"),
        ('name: "start_logits"', 'name: "begin_logits"', "begin_logits"),
        ("dims: [ -1 ]", "dims: [ -1, 3 ]", "shape"),
        ('intra_op_thread_count" value { string_value: "1"', 'execution_mode" value { string_value: "7"', "execution_mode"),
        ("max_batch_size: 8", 'max_batch_size: 8\ndefault_model_filename: "../../model.onnx"', "leads out"),
    ],
    ids=["dtype", "name", "dims", "parameter", "path"],
)  # fmt: skip
def test_what_the_native_backend_refuses_is_refused(
    run_tool: RunTool, bert_only: Path, old: str, new: str, message: str
) -> None:
    edit(bert_only, old, new)
    assert message in serve_embedded(run_tool, bert_only)


@pytest.mark.parametrize("level", [-1, 1, 2])
def test_graph_levels_and_parameters_are_taken(bert_only: Path, served: Served, level: int) -> None:
    parameters = ("inter_op_thread_count", "execution_mode", "enable_mem_arena", "enable_mem_pattern")
    lines = [f"optimization {{ graph {{ level: {level} }} }}"]
    lines += [f'parameters {{ key: "{key}" value {{ string_value: "1" }} }}' for key in parameters]
    shrinkage = "memory.enable_memory_arena_shrinkage"
    lines.append(f'parameters {{ key: "{shrinkage}" value {{ string_value: "cpu:0" }} }}')
    edit(bert_only, "max_batch_size: 8", "max_batch_size: 8\n" + "\n".join(lines))
    feed = served.inputs("bert").exact(20)
    with served.client() as client:
        expected = client.infer("bert", feed)
    with running(ServeOptions(bert_only, runtime="embedded", ports=Ports(0, 0, 0))) as server, server.client() as client:
        np.testing.assert_allclose(client.infer("bert", feed)["start_logits"], expected["start_logits"], atol=1e-4)


def stubs(server_pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(server_pid).children(recursive=True) if "stub" in child.name()]


def wait_for(condition: object, seconds: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_dead_stub_is_noticed_though_triton_says_ready_and_is_mended(bert_only: Path) -> None:
    with running(ServeOptions(bert_only, runtime="embedded", ports=Ports(0, 0, 0))) as server:
        with server.client("http", timeout_s=20) as client:
            check_model(client, "bert")
            for stub in stubs(server.pid):
                stub.kill()
            wait_for(lambda: not stubs(server.pid))
            assert client.ready()
            with pytest.raises(ServerError, match="bert"):
                check_model(client, "bert")
            client.unload("bert")
            wait_for(lambda: "bert" not in client.served_models())
            client.load("bert")
            check_model(client, "bert")
        events: list[str] = []
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(server, True, events.append, stop))
        watcher.start()
        try:
            time.sleep(1.5)
            assert events == []
            for stub in stubs(server.pid):
                stub.kill()
            wait_for(lambda: len(events) >= 2)
        finally:
            stop.set()
            watcher.join()
        assert "no longer answers" in events[0]
        assert "loaded again, answers" in events[1]
        # Triton itself would wait for the dead process until its time is over, and fail.
        started = time.monotonic()
        assert server.stop(drain_timeout_s=30) == 0
        assert time.monotonic() - started < 15


@pytest.fixture
def foreground(repository: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tools/serve.py` on the demo model, ready, and its gRPC address."""
    folder = tmp_path / "repository"
    shutil.copytree(repository / "demo", folder / "demo")
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    process = subprocess.Popen(
        [sys.executable, ROOT / "tools" / "serve.py", "--repository", folder, "--runtime", "embedded", "--json", *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    document = ""
    while not document.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        document += line
    yield process, json.loads(document)["grpc"]
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_what_is_in_flight_and_exits_0(
    foreground: tuple[subprocess.Popen[str], str], served: Served, number: signal.Signals
) -> None:
    process, url = foreground
    feed = served.inputs("demo").padded([384] * 16)
    answers = []
    with Client(url) as client:
        call = client.prepare("demo", feed)
        call()
        started = time.perf_counter()
        call()
        alone = time.perf_counter() - started
        thread = threading.Thread(target=lambda: answers.append(call()))
        thread.start()
        time.sleep(alone / 4)
        assert thread.is_alive()
        process.send_signal(number)
        thread.join()
    assert answers[0]["start_logits"].shape == (16, 384)
    assert process.wait(60) == 0
    with Client(url, timeout_s=5) as client:
        assert not client.ready()


def test_detach_status_stop(run_tool: RunTool, bert_only: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    here = ("--repository", bert_only, "--runtime", "embedded")
    started = run_tool("serve", *here, *ports, "--detach", "--json", env=environment)
    assert started.returncode == 0, started.stderr
    try:
        address = json.loads(started.stdout)["grpc"]
        with Client(address) as client:
            check_model(client, "bert")
        assert run_tool("serve", *here, "--status").returncode == 0
        second = run_tool("serve", *here, *ports, "--detach")
        assert second.returncode == 1
        assert "served already" in one_error_line(second)
        with Client(address) as client:
            pid = json.loads(started.stdout)["pid"]
            for stub in [child for child in psutil.Process(pid).children(recursive=True) if "stub" in child.name()]:
                stub.kill()
            wait_for(lambda: _answers(client))  # the server's own watch loads it again
    finally:
        stopped = run_tool("serve", *here, "--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert run_tool("serve", *here, "--status").returncode == 1
    with Client(address, timeout_s=5) as client:
        assert not client.ready()


def _answers(client: Client) -> bool:
    try:
        check_model(client, "bert")
    except TritonsmithError:
        return False
    return True


def test_detached_server_that_cannot_start_says_why(run_tool: RunTool, bert_only: Path) -> None:
    (bert_only / "bert" / "1" / "model.onnx").write_bytes(b"not a model")
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    done = run_tool("serve", "--repository", bert_only, "--runtime", "embedded", *ports, "--detach", "--no-check")
    assert done.returncode == 1
    assert "cannot load model.onnx" in one_error_line(done)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_benchmark(run_tool: RunTool, served: Served, tmp_path: Path, protocol: str) -> None:
    url = served.server.launch.grpc_url if protocol == "grpc" else served.server.launch.http_url
    target = tmp_path / "figures.json"
    arguments = ("--url", url, "--protocol", protocol, "--model", "bert", "--repository", served.repository)
    counting = ("--sequence-lengths", "16,64", "--requests", "12", "--warmup", "3", "--json", target)
    done = run_tool("benchmark", *arguments, *counting)
    assert done.returncode == 0, done.stderr
    figures = json.loads(target.read_text())
    assert [length["sequence_length"] for length in figures["lengths"]] == [16, 64]
    for length in figures["lengths"]:
        client, server = length["client"], length["server"]
        assert client["count"] == length["requests_counted_by_server"] == 12
        assert 0 < client["p50"] <= client["p90"] <= client["p99"]
        assert 0 < server["compute_infer"] < client["mean"]
        assert length["outside_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "nobody"], 1, "served models: bert"),
        ([], 1, "name one"),
        (["--model", "bert", "--sequence-lengths", "32,65"], 2, "at most 64 tokens"),
        (["--model", "bert", "--sequence-lengths", "3"], 2, "at least 4"),
        (["--model", "bert", "--sequence-lengths", "16", "--requests", "0"], 2, "--requests 0"),
        (["--model", "bert", "--sequence-lengths", "16", "--repository", "/nowhere"], 2, "--tokenizer"),
    ],
)
def test_benchmark_s_wrong_inputs(run_tool: RunTool, served: Served, arguments: list[str], code: int, message: str) -> None:
    repository = [] if "--repository" in arguments else ["--repository", str(served.repository)]
    done = run_tool("benchmark", "--url", served.server.launch.grpc_url, *repository, *arguments)
    assert done.returncode == code, done.stderr
    assert message in one_error_line(done)


def test_benchmark_of_a_model_from_elsewhere(run_tool: RunTool, served: Served) -> None:
    tokenizer = ModelFolder(served.repository / "distilbert").version(1) / "tokenizer.json"
    arguments = ("--model", "distilbert", "--repository", "/nowhere", "--tokenizer", tokenizer)
    counting = ("--sequence-lengths", "16", "--requests", "3", "--warmup", "1", "--json", "-")
    done = run_tool("benchmark", "--url", served.server.launch.grpc_url, *arguments, *counting)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lengths"][0]["client"]["count"] == 3


def test_evaluate_gives_the_served_model_and_pytorch_the_same_scores(run_tool: RunTool, served: Served, tmp_path: Path) -> None:
    entries = [
        ("Who worked a little bit harder?", "The second little pig"),
        ("Who worked hard all day?", "The third little pig"),
        ("What colour were the pigs?", None),
    ]
    context = "The second little pig worked a little bit harder. The third little pig worked hard all day."
    questions = [
        {"id": str(number), "question": question, "answers": [{"text": answer, "answer_start": 0}] if answer else []}
        for number, (question, answer) in enumerate(entries)
    ]
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": questions}]}]}))
    arguments = ("--dataset", dataset, "--checkpoint", "demo", "--model", "demo", "--repository", served.repository, "--json")
    done = run_tool("evaluate", "--url", served.server.launch.grpc_url, *arguments, "--answerable")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["PyTorch demo"]["examples"] == 2
    assert scores["PyTorch demo"]["figures"] == scores["Triton demo"]["figures"] == {"exact": 100, "f1": 100}
    for threshold, exact in (("0", 200 / 3), ("-1000", 100 / 3)):
        options = ("--no-answer-threshold", threshold)
        everything = run_tool("evaluate", "--url", served.server.launch.grpc_url, *arguments, *options)
        assert json.loads(everything.stdout)["Triton demo"]["figures"]["exact"] == pytest.approx(exact)


def test_evaluate_scores_tags_of_a_served_model(run_tool: RunTool, served: Served, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset.jsonl"
    dataset.write_text(json.dumps({"tokens": ["the", "little", "pig"], "tags": ["LABEL_0", "LABEL_4", 1]}))
    arguments = ("--dataset", dataset, "--model", "roberta", "--repository", served.repository, "--json")
    done = run_tool("evaluate", "--url", served.server.launch.grpc_url, *arguments)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["Triton roberta"]["figures"]
    assert figures["accuracy"] in [pytest.approx(100 * correct / 3) for correct in range(4)]


@pytest.mark.parametrize(("model", "message"), [("deberta-v2", "fill-mask has no metric"), ("roberta", "line 1 has no field")])
def test_evaluate_names_what_it_cannot_score(
    run_tool: RunTool, served: Served, tmp_path: Path, model: str, message: str
) -> None:
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({"data": []}))
    arguments = ("--dataset", dataset, "--model", model, "--repository", served.repository)
    done = run_tool("evaluate", "--url", served.server.launch.grpc_url, *arguments)
    assert done.returncode == 2
    assert message in one_error_line(done)


def test_quickstart(run_tool: RunTool, tmp_path: Path) -> None:
    done = run_tool("quickstart", "--repository", tmp_path / "repository", "--requests", "3", "--sequence-lengths", "16,32")
    assert done.returncode == 0, done.stderr
    for text in ("published:", "The second little pig", "bricks", "1844", "Triton has stopped"):
        assert text in done.stderr
    again = run_tool("quickstart", "--repository", tmp_path / "repository", "--requests", "3", "--sequence-lengths", "16")
    assert "unchanged:" in again.stderr


def test_killed_supervisor_takes_triton_with_it(foreground: tuple[subprocess.Popen[str], str]) -> None:
    process, _url = foreground
    (triton,) = (child for child in psutil.Process(process.pid).children() if child.name() == "tritonserver")
    process.kill()
    triton.wait(60)
    assert not triton.is_running()
