"""A served model answers as PyTorch does, and refuses what is wrong without harm to the next request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import ARCHITECTURES, MAX_LENGTH
from tests.integration.conftest import Served
from tritonsmith.engines import triton_predictor
from tritonsmith.errors import RequestError, UnknownModelError
from tritonsmith.inputs import Feed, passages
from tritonsmith.metrics.extractive import QuestionAnswerer
from tritonsmith.metrics.model import Model
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.stages.loading import load_model
from tritonsmith.tasks import Task
from tritonsmith.verify.parity import compare

PROTOCOLS = ["grpc", "http"]


def pytorch(folder: Path, task: Task, feed: Feed) -> dict[str, Any]:
    import torch

    with torch.inference_mode():
        output = load_model(folder, task, trust_remote_code=False)(**{k: torch.from_numpy(v) for k, v in feed.items()})
    return {name: value.numpy() for name, value in output.items()}


def assert_same(answer: Feed, expected: dict[str, Any], mask: Any, by_token: bool) -> None:
    for name, array in answer.items():
        keep = mask.astype(bool) if by_token else slice(None)
        np.testing.assert_allclose(array[keep], expected[name][keep], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiny_models(served: Served, checkpoint: Callable[[str], Path], architecture: str, protocol: str) -> None:
    task = ARCHITECTURES[architecture]
    inputs = served.inputs(architecture)
    with served.client(protocol) as client:
        for feed in (inputs.exact(MAX_LENGTH), inputs.exact(7, 3), inputs.padded([9, 40, 21], 1)):
            expected = pytorch(checkpoint(architecture), task, feed)
            answer = client.infer(architecture, feed)
            assert_same(answer, expected, feed["attention_mask"], task is not Task.TEXT_CLASSIFICATION)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_demo_answers_the_article_s_question(served: Served, protocol: str) -> None:
    inputs = served.inputs("demo")
    with served.client(protocol) as client:
        answerer = QuestionAnswerer(Model(triton_predictor(client, "demo"), inputs._tokenizer, inputs._names))
        answer = answerer.answer("Who worked a little bit harder?", passages()[0]["text"])
    assert answer.text == "The second little pig"


def test_unbatched_model_takes_its_batch_in_the_dims(served: Served) -> None:
    feed = served.inputs("unbatched").padded([9, 40])
    with served.client() as client:
        batched = client.infer("bert", feed)
        unbatched = client.infer("unbatched", feed)
    for name in batched:
        np.testing.assert_allclose(unbatched[name], batched[name], atol=1e-5)


def good(served: Served, length: int = 16) -> Feed:
    return served.inputs("bert").exact(length)


def without_mask(feed: Feed) -> Feed:
    return {name: array for name, array in feed.items() if name != "attention_mask"}


WRONG: dict[str, Callable[[Feed], Feed]] = {
    "name": lambda feed: without_mask(feed) | {"mask": feed["attention_mask"]},
    "missing input": without_mask,
    "extra input": lambda feed: feed | {"position_ids": feed["attention_mask"]},
    "dtype": lambda feed: {name: array.astype(np.int32) for name, array in feed.items()},
    "rank": lambda feed: {name: array[0] for name, array in feed.items()},
    "batch too large": lambda feed: {name: np.repeat(array, 9, axis=0) for name, array in feed.items()},
    "unequal lengths": lambda feed: feed | {"attention_mask": feed["attention_mask"][:, :-1]},
    "token id out of range": lambda feed: feed | {"input_ids": feed["input_ids"] + 1_000_000},
    "negative token id": lambda feed: feed | {"input_ids": feed["input_ids"] - 1_000_000},
    "token type out of range": lambda feed: feed | {"token_type_ids": feed["token_type_ids"] + 9},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("model", "wrong"),
    # Without batching Triton knows no largest batch.
    [
        (model, wrong)
        for model in ("bert", "bert_openvino")
        for wrong in WRONG
        if (model, wrong) != ("bert_openvino", "batch too large")
    ],
)
def test_wrong_request_is_the_client_s_error_and_the_next_is_answered(
    served: Served, model: str, wrong: str, protocol: str
) -> None:
    feed = good(served)
    with served.client(protocol) as client:
        expected = client.infer(model, feed)
        with pytest.raises(RequestError) as raised:
            client.infer(model, WRONG[wrong](feed))
        assert raised.value.status in ("INVALID_ARGUMENT", "400")
        again = client.infer(model, feed)
    for name in expected:
        np.testing.assert_array_equal(again[name], expected[name])


def test_openvino_answers_as_the_artifact_that_was_verified(served: Served) -> None:
    inputs = served.inputs("bert_openvino")
    manifest = ModelFolder(served.repository / "bert_openvino").manifest(1)
    assert manifest is not None
    with served.client() as client:
        for feed in (inputs.exact(MAX_LENGTH), inputs.exact(7, 3), inputs.padded([9, 40, 21], 1)):
            answer, exact = client.infer("bert_openvino", feed), client.infer("bert", feed)
            figures = compare(Task.QUESTION_ANSWERING, [(feed, answer, exact)])
            assert 0 < figures["relative_l2"] < 3 * manifest["stages"][-1]["parity"]["relative_l2"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_513_tokens_are_refused_and_512_answered(served: Served, protocol: str) -> None:
    inputs = served.inputs("demo")
    with served.client(protocol) as client:
        assert client.infer("demo", inputs.exact(512))["start_logits"].shape == (1, 512)
        with pytest.raises(RequestError) as raised:
            client.infer("demo", inputs.exact(513))
        assert raised.value.status in ("INVALID_ARGUMENT", "400")
        assert client.infer("demo", inputs.exact(512))["start_logits"].shape == (1, 512)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "deberta-v2"])
def test_one_token_too_many_is_the_client_s_error_everywhere(served: Served, architecture: str) -> None:
    """DeBERTa's positions are relative: it has no such limit."""
    inputs = served.inputs(architecture)
    with served.client() as client:
        client.infer(architecture, inputs.exact(MAX_LENGTH))
        with pytest.raises(RequestError):
            client.infer(architecture, inputs.exact(MAX_LENGTH + 1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unknown_model(served: Served, protocol: str) -> None:
    with served.client(protocol) as client, pytest.raises(UnknownModelError, match="nobody"):
        client.infer("nobody", good(served))


def counts(served: Served, model: str) -> tuple[int, int]:
    """Inferences and executions so far."""
    with served.client() as client:
        entry = client.statistics(model)[0]
    return int(entry.get("inference_count", 0)), int(entry.get("execution_count", 0))


def at_once(served: Served, model: str, feeds: list[Feed]) -> list[Feed | Exception]:
    """Send all feeds at the same moment, each from a thread of its own."""
    gate = threading.Barrier(len(feeds))

    def send(feed: Feed) -> Feed | Exception:
        with served.client() as client:
            call = client.prepare(model, feed)
            client.ready()
            gate.wait()
            try:
                return call()
            except RequestError as error:
                return error

    with ThreadPoolExecutor(len(feeds)) as pool:
        return list(pool.map(send, feeds))


def test_dynamic_batching_merges_and_gives_each_its_own_answer(served: Served) -> None:
    inputs = served.inputs("demo")
    feeds = [inputs.exact(64, index) for index in range(12)] + [inputs.exact(48, index) for index in range(4)]
    with served.client() as client:
        expected = [client.infer("demo", feed) for feed in feeds]
    inferences, executions = counts(served, "demo")
    answers = at_once(served, "demo", feeds)
    for answer, single in zip(answers, expected, strict=True):
        assert isinstance(answer, dict)
        for name in single:
            np.testing.assert_allclose(answer[name], single[name], atol=1e-4)
    after_inferences, after_executions = counts(served, "demo")
    assert after_inferences - inferences == len(feeds)
    assert after_executions - executions < len(feeds)


def test_bad_request_does_not_fail_its_batch_mates(served: Served) -> None:
    inputs = served.inputs("demo")
    feeds = [inputs.exact(64, index) for index in range(8)]
    bad = feeds[3] | {"input_ids": feeds[3]["input_ids"] + 10_000_000}
    with served.client() as client:
        expected = [client.infer("demo", feed) for feed in feeds]
    answers = at_once(served, "demo", [*feeds[:3], bad, *feeds[4:]])
    for index, answer in enumerate(answers):
        if index == 3:
            assert isinstance(answer, RequestError)
            continue
        assert isinstance(answer, dict)
        np.testing.assert_allclose(answer["start_logits"], expected[index]["start_logits"], atol=1e-4)


def test_two_instances_work_at_once(served: Served) -> None:
    feeds = [served.inputs("twice").exact(32, index) for index in range(8)]
    with served.client() as client:
        assert client.config("twice")["instance_group"][0]["count"] == 2
        expected = [client.infer("bert", feed) for feed in feeds]
    for answer, single in zip(at_once(served, "twice", feeds), expected, strict=True):
        assert isinstance(answer, dict)
        for name in single:
            np.testing.assert_allclose(answer[name], single[name], atol=1e-4)


def test_two_versions_answer_side_by_side(served: Served, checkpoint: Callable[[str], Path], second_bert: Path) -> None:
    feed = served.inputs("versions", 2).exact(32)
    with served.client() as client:
        for version, folder in (("1", checkpoint("bert")), ("2", second_bert), ("", second_bert)):
            expected = pytorch(folder, Task.QUESTION_ANSWERING, feed)
            assert_same(client.infer("versions", feed, version), expected, feed["attention_mask"], by_token=True)
        with pytest.raises(UnknownModelError):
            client.infer("versions", feed, "3")


def test_unload_and_load(served: Served) -> None:
    feed = good(served)
    with served.client("http") as client:
        expected = client.infer("unbatched", feed)
        client.unload("unbatched")
        with pytest.raises(UnknownModelError):
            client.infer("unbatched", feed)
        assert "unbatched" not in client.served_models()
        client.load("unbatched")
        np.testing.assert_array_equal(client.infer("unbatched", feed)["start_logits"], expected["start_logits"])
