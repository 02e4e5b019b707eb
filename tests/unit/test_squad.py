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
from tritonsmith.datasets import Question, read_dataset
from tritonsmith.errors import UsageError
from tritonsmith.inputs import Feed, load_tokenizer, passages
from tritonsmith.metrics.extractive import Answer, QuestionAnswerer
from tritonsmith.metrics.model import Model
from tritonsmith.metrics.squad import exact_match, f1, score
from tritonsmith.tasks import Task

phrases = st.lists(
    st.sampled_from(["The", "a", "an", "pig", "Pig!", "second", "little,", "", "—", "straw.", "café"]), max_size=6
).map(" ".join)


@given(prediction=phrases, answers=st.lists(phrases, min_size=1, max_size=3))
def test_agrees_with_transformers(prediction: str, answers: list[str]) -> None:
    from transformers.data.metrics.squad_metrics import normalize_answer

    golds = [answer for answer in answers if normalize_answer(answer)] or [""]
    assert exact_match(prediction, answers) == max(compute_exact(gold, prediction) for gold in golds)
    assert f1(prediction, answers) == pytest.approx(max(compute_f1(gold, prediction) for gold in golds))


@given(
    golds=st.lists(st.lists(phrases, max_size=3), min_size=1, max_size=12),
    found=st.lists(phrases, min_size=12, max_size=12),
    doubts=st.lists(st.floats(-20, 20), min_size=12, max_size=12, unique=True),
    threshold=st.floats(-20, 20),
)
def test_no_answer_figures_agree_with_transformers(
    golds: list[list[str]], found: list[str], doubts: list[float], threshold: float
) -> None:
    from transformers.data.metrics.squad_metrics import normalize_answer, squad_evaluate
    from transformers.data.processors.squad import SquadExample

    # A gold that normalises to nothing is no answer to the reference, which then disagrees with itself.
    golds = [[text for text in texts if normalize_answer(text)] for texts in golds]
    questions = [Question(str(number), "q", "c", tuple(texts)) for number, texts in enumerate(golds)]
    answers = [Answer(text, no_answer_score=doubt) for text, doubt in zip(found, doubts, strict=True)][: len(golds)]
    figures = score(questions, answers, threshold)
    examples = []
    for question in questions:
        example = SquadExample(question.id, "q", "c", None, None, "t", is_impossible=not question.answers)
        example.answers = [{"text": text} for text in question.answers]
        examples.append(example)
    predictions = {question.id: answer.text for question, answer in zip(questions, answers, strict=True)}
    if all(golds):
        expected = squad_evaluate(examples, predictions)
        assert figures == pytest.approx({name: expected[name] for name in ("exact", "f1")})
        return
    odds = {question.id: answer.no_answer_score for question, answer in zip(questions, answers, strict=True)}
    expected = squad_evaluate(examples, predictions, odds, threshold)
    assert figures == pytest.approx({name: expected[name] for name in figures})
    assert {name for name in expected if "total" not in name} == set(figures)


def test_dataset_is_read(tmp_path: Path) -> None:
    entry = {"id": "7", "question": "Who?", "answers": [{"text": "pig", "answer_start": 4}]}
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "the pig", "qas": [entry]}]}]}))
    assert read_dataset(file, Task.QUESTION_ANSWERING) == [Question("7", "Who?", "the pig", ("pig",))]


@pytest.mark.parametrize("content", ["", "[]", '{"data": []}', '{"data": [{}]}', '{"data": [{"paragraphs": [{"qas": [{}]}]}]}'])
def test_wrong_dataset_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "data.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"--dataset .*data\.json"):
        read_dataset(file, Task.QUESTION_ANSWERING)


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

    answerer = QuestionAnswerer(Model(predict, tokenizer, ["input_ids"], max_length=48), stride=16)
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

    answerer = QuestionAnswerer(Model(predict, tokenizer, ["input_ids"]), max_answer_length=3)
    context = "straw sticks bricks straw sticks bricks straw"
    answer = answerer.answer("straw or sticks?", context)
    assert answer.text
    assert context.endswith(answer.text)
    assert len(answer.text.split()) <= 3


def test_no_answer_score_is_the_smallest_null_score_minus_the_best_span(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    nulls = iter([9.0, 3.0, 7.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0])

    def predict(feed: Feed) -> Feed:
        length = feed["input_ids"].shape[1]
        start, end = np.zeros((1, length)), np.zeros((1, length))
        start[0, 0] = end[0, 0] = next(nulls)
        start[0, length - 2] = end[0, length - 2] = 2
        return {"start_logits": start, "end_logits": end}

    answerer = QuestionAnswerer(Model(predict, tokenizer, ["input_ids"], max_length=48), stride=16)
    assert answerer.answer("What is it?", passages()[0]["text"][:200]).no_answer_score == 2 * 3 - 4


def test_question_longer_than_the_model_is_cut(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    lengths = []

    def predict(feed: Feed) -> Feed:
        lengths.append(feed["input_ids"].shape[1])
        return {name: np.zeros((1, lengths[-1])) for name in ("start_logits", "end_logits")}

    answer = QuestionAnswerer(Model(predict, tokenizer, ["input_ids"], max_length=32)).answer("why " * 100, "straw and bricks")
    assert answer.text
    assert max(lengths) <= 32
