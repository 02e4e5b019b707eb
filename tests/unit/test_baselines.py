"""The FastAPI baselines: the same answers from every engine, and clear refusals."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.checkpoints import MAX_LENGTH
from tests.conftest import ROOT, RunTool, one_error_line
from tests.unit.conftest import Build
from tritonsmith.artifact import read_artifact
from tritonsmith.baselines.engines import ENGINES, BoundSession, load
from tritonsmith.baselines.service import MAX_BODY_BYTES, create_app
from tritonsmith.engines import artifact_predictor
from tritonsmith.errors import UsageError
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.serving.options import bind_port

CONTEXT = "The second little pig worked a little bit harder. The third little pig worked hard all day."


@pytest.fixture
def service(build_tiny: Build, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, job_cache: Path) -> Any:
    """Return a client of the service of a tiny model by engine and architecture."""
    monkeypatch.setenv("TRITONSMITH_CACHE", str(job_cache))

    def make(engine: str, architecture: str = "bert") -> TestClient:
        if engine == "pytorch":
            return TestClient(create_app(load(engine, str(checkpoint(architecture)), None, 1)))
        artifact = build_tiny(architecture, name=architecture).published.folder
        return TestClient(create_app(load(engine, None, artifact, 1)))

    return make


def test_every_engine_gives_the_same_answers(service: Any) -> None:
    ids = [[1, 5, 7, 9, 11, 2], [1, 4, 3, 2, 0, 0]]
    mask = [[1] * 6, [1, 1, 1, 1, 0, 0]]
    tensors, answers = [], []
    for engine in ENGINES:
        client = service(engine)
        outputs = client.post("/infer", json={"input_ids": ids, "attention_mask": mask}).json()["outputs"]
        tensors.append(np.array(outputs["start_logits"])[np.array(mask) == 1])
        answers.append(client.post("/predict", json={"question": "Who worked hard?", "context": CONTEXT}).json())
        assert client.get("/health").json()["engine"] == engine
    for other in tensors[1:]:
        np.testing.assert_allclose(other, tensors[0], atol=1e-4)
    assert {(answer["answer"], answer["start"], answer["end"]) for answer in answers} == {
        (answers[0]["answer"], answers[0]["start"], answers[0]["end"])
    }
    assert answers[0]["answer"] == CONTEXT[answers[0]["start"] : answers[0]["end"]] != ""


@pytest.mark.parametrize(
    ("architecture", "field", "check"),
    [
        ("distilbert", "scores", lambda scores: abs(sum(scores) - 1) < 1e-6 and scores == sorted(scores, reverse=True)),
        ("roberta", "tags", lambda tags: all(CONTEXT[start:end].strip() for _tag, start, end in tags)),
        ("mpnet", "embedding", lambda vector: len(vector) == 32),
    ],
)
def test_text_in_for_each_task(service: Any, architecture: str, field: str, check: Callable[[Any], bool]) -> None:
    answer = service("onnxruntime", architecture).post("/predict", json={"text": CONTEXT})
    assert answer.status_code == 200, answer.text
    assert check(answer.json()[field])


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/predict", {"question": "", "context": "x"}, "question"),
        ("/predict", {"question": "x"}, "context"),
        ("/infer", {"input_ids": []}, "input_ids"),
        ("/infer", {"input_ids": [[1, 2], [1]]}, "expected 2 rows of 2 numbers"),
        ("/infer", {"input_ids": [[1, 2]], "attention_mask": [[1]]}, "attention_mask"),
        ("/infer", {"input_ids": [[1, 10**6]]}, "expected 0 to"),
        ("/infer", {"input_ids": [[1] * (MAX_LENGTH + 1)]}, f"at most {MAX_LENGTH}"),
    ],
)
def test_wrong_requests_are_the_client_s_fault(service: Any, path: str, body: Any, message: str) -> None:
    answer = service("onnxruntime").post(path, json=body)
    assert answer.status_code == 422
    assert message in answer.text


def test_large_bodies_are_refused(service: Any) -> None:
    client = service("onnxruntime")
    for content in (b"x" * (MAX_BODY_BYTES + 1), (b"x" * 1000 for _ in range(MAX_BODY_BYTES // 1000 + 2))):
        assert client.post("/predict", content=content).status_code == 413


def test_bound_buffers_give_each_request_its_own_answer(build_tiny: Build) -> None:
    """Buffers are used again by shape: also by requests at once, and by more shapes than are kept."""
    folder = build_tiny().published.folder
    artifact = read_artifact(folder)
    names = [spec.name for spec in artifact.inputs]
    inputs = TextInputs(load_tokenizer(folder / "tokenizer.json"), artifact.task, names, artifact.pad_token_id)
    plain, bound = artifact_predictor(folder, 1), BoundSession(artifact.model, 1)
    assert bound.device == "cpu"
    feeds = [inputs.exact(length, index) for index in range(4) for length in range(8, 40, 2)]
    answers: list[Any] = [None] * len(feeds)

    def ask(numbers: range) -> None:
        for number in numbers:
            answers[number] = bound(feeds[number])

    threads = [threading.Thread(target=ask, args=(range(start, len(feeds), 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for feed, answer in zip(feeds, answers, strict=True):
        for name, array in plain(feed).items():
            np.testing.assert_allclose(answer[name], array, atol=1e-5)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """What asyncio looks at before it sets TCP_NODELAY; a wait of 40 ms would make the baselines look slow."""
    with bind_port("--port", "127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tensorflow", None, None, 0), "--engine tensorflow"),
        (("pytorch", None, None, 0), "takes --checkpoint"),
        (("onnxruntime", "demo", None, 0), "takes --artifact"),
        (("onnxruntime", None, Path("/nowhere"), 0), "no such folder"),
        (("pytorch", "demo", None, -1), "--threads -1"),
    ],
)
def test_wrong_arguments(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(*arguments)


def test_the_tool_serves_and_stops(build_tiny: Build, run_tool: RunTool) -> None:
    artifact = build_tiny().published.folder
    command = [sys.executable, ROOT / "tools" / "serve_baseline.py", "--engine", "onnxruntime", "--artifact", artifact]
    process = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = line.split()[1]
        with httpx2.Client(base_url=address, timeout=20) as client:
            assert client.get("/health").json()["task"] == "question-answering"
            assert "/predict" in client.get("/openapi.json").json()["paths"]
            port = address.rpartition(":")[2]
            taken = run_tool("serve_baseline", *map(str, command[2:]), "--port", port)
        assert taken.returncode == 1
        assert f"--port {port}" in one_error_line(taken)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
