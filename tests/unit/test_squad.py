"""The metric agrees with transformers' own implementation; answers are read from windows with right offsets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

from tests.checkpoints import make_tokenizer
from tritonsmith.errors import UsageError
from tritonsmith.inputs import Feed, load_tokenizer, passages
from tritonsmith.metrics.extractive import QuestionAnswerer
from tritonsmith.metrics.squad import Example, exact_match, f1, read_dataset, score

phrases = st.lists(
    st.sampled_from(["The", "a", "an", "pig", "Pig!", "second", "little,", "", "—", "straw.", "café"]), max_size=6
).map(" ".join)


@given(prediction=phrases, answers=st.lists(phrases, min_size=1, max_size=3))
def test_agrees_with_transformers(prediction: str, answers: list[str]) -> None:
    from transformers.data.metrics.squad_metrics import normalize_answer

    golds = [answer for answer in answers if normalize_answer(answer)] or [""]
    assert exact_match(prediction, answers) == max(compute_exact(gold, prediction) for gold in golds)
    assert f1(prediction, answers) == pytest.approx(max(compute_f1(gold, prediction) for gold in golds))


def test_score_counts_unanswerable_questions() -> None:
    examples = [Example("1", "q", "c", ("the pig",)), Example("2", "q", "c", ())]
    scores = score(examples, ["pig", ""])
    assert (scores.questions, scores.exact_match, scores.f1) == (2, 100.0, 100.0)
    assert score(examples, ["little pig", "straw"]).f1 == pytest.approx(100 / 3)


def test_dataset_is_read(tmp_path: Path) -> None:
    entry = {"id": "7", "question": "Who?", "answers": [{"text": "pig", "answer_start": 4}]}
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "the pig", "qas": [entry]}]}]}))
    assert read_dataset(file) == [Example("7", "Who?", "the pig", ("pig",))]


@pytest.mark.parametrize("content", ["", "[]", '{"data": []}', '{"data": [{}]}', '{"data": [{"paragraphs": [{"qas": [{}]}]}]}'])
def test_wrong_dataset_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "data.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"--dataset .*data\.json"):
        read_dataset(file)


@pytest.mark.parametrize("target", ["fireplace", "straw", "strongest winds", "third little pig"])
def test_answer_is_found_in_any_window(tmp_path: Path, target: str) -> None:
    """An engine that points at a known span must give that span's text and offsets, whichever window it is in."""
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    context = passages()[0]["text"]
    wanted = [tokenizer.token_to_id(token) for token in tokenizer.encode(target, add_special_tokens=False).tokens]
    seen = []

    def predict(feed: Feed) -> Feed:
        ids = feed["input_ids"][0].tolist()
        seen.append(len(ids))
        start, end = np.zeros((1, len(ids))), np.zeros((1, len(ids)))
        for position in range(len(ids)):
            if ids[position : position + len(wanted)] == wanted:
                start[0, position], end[0, position + len(wanted) - 1] = 5, 5
        return {"start_logits": start, "end_logits": end}

    answerer = QuestionAnswerer(predict, tokenizer, ["input_ids"], max_length=48, stride=16)
    answer = answerer.answer("What is it?", context)
    assert answer.text.lower() == target
    assert context[answer.start : answer.end] == answer.text
    assert len(seen) > 1
    assert max(seen) == 48


def test_question_tokens_and_long_spans_are_never_answers(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")

    def predict(feed: Feed) -> Feed:
        length = feed["input_ids"].shape[1]
        start, end = np.zeros((1, length)), np.zeros((1, length))
        start[0, 1], end[0, 2] = 90, 90  # in the question
        end[0, length - 2] = 9
        return {"start_logits": start, "end_logits": end}

    answerer = QuestionAnswerer(predict, tokenizer, ["input_ids"], max_answer_length=3)
    context = "straw sticks bricks straw sticks bricks straw"
    answer = answerer.answer("straw or sticks?", context)
    assert answer.text
    assert context.endswith(answer.text)
    assert len(answer.text.split()) <= 3
