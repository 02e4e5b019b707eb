"""SQuAD's exact match and F1, as the official evaluation script defines them.

Rajpurkar et al. 2016 and 2018; https://rajpurkar.github.io/SQuAD-explorer/ (evaluate-v2.0.py).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from tritonsmith.datasets import Question
from tritonsmith.metrics.extractive import Answer

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)


def normalise(text: str) -> str:
    """Lower-case and drop punctuation, the articles a, an, the, and extra white space, in the official script's order."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the answers after normalising, else 0; no answers: 1 for an empty prediction."""
    return float(any(normalise(prediction) == normalise(answer) for answer in _golds(answers)))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the best harmonic mean of word precision and recall over the answers; no answers: 1 for an empty prediction."""
    return max(_f1_of_one(prediction, answer) for answer in _golds(answers))


def _golds(answers: Sequence[str]) -> list[str]:
    # The official script drops answers that normalise to nothing, and takes "" where none is left.
    return [answer for answer in answers if normalise(answer)] or [""]


def _f1_of_one(prediction: str, answer: str) -> float:
    predicted, gold = normalise(prediction).split(), normalise(answer).split()
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def score(questions: Sequence[Question], answers: Sequence[Answer], threshold: float = 0.0) -> dict[str, float]:
    """Return the official script's figures, in percent, with its names.

    `exact` and `f1` over all questions. Where some are unanswerable, also `HasAns_*` and `NoAns_*` over either kind, and
    `best_exact`, `best_f1` with the thresholds that give them.

    Args:
        questions: with their accepted answers.
        answers: one a question; `no_answer_score` is the script's no-answer probability.
        threshold: a question whose no-answer score is above it is taken to be unanswerable. It plays no part where every
            question has an answer (SQuAD v1.1).
    """
    pairs = list(zip(questions, answers, strict=True))
    has_answer = [bool(question.answers) for question in questions]
    raw = {
        "exact": [exact_match(answer.text, question.answers) for question, answer in pairs],
        "f1": [f1(answer.text, question.answers) for question, answer in pairs],
    }
    if all(has_answer):
        return {name: _percent(values) for name, values in raw.items()}
    doubts = [answer.no_answer_score for answer in answers]
    figures: dict[str, float] = {}
    for name, values in raw.items():
        scored = [
            float(not answerable) if doubt > threshold else value
            for value, answerable, doubt in zip(values, has_answer, doubts, strict=True)
        ]
        figures[name] = _percent(scored)
        for kind, wanted in (("HasAns", True), ("NoAns", False)):
            chosen = [value for value, answerable in zip(scored, has_answer, strict=True) if answerable is wanted]
            if chosen:
                figures[f"{kind}_{name}"] = _percent(chosen)
        figures[f"best_{name}"], figures[f"best_{name}_thresh"] = _best_threshold(values, has_answer, doubts, answers)
    return figures


def _best_threshold(
    values: Sequence[float], has_answer: Sequence[bool], doubts: Sequence[float], answers: Sequence[Answer]
) -> tuple[float, float]:
    """Return the best score in percent over all thresholds, and the threshold, as the script finds them."""
    current = best = float(has_answer.count(False))
    threshold = 0.0
    for index in sorted(range(len(values)), key=lambda index: doubts[index]):
        current += values[index] if has_answer[index] else -float(bool(answers[index].text))
        if current > best:
            best, threshold = current, doubts[index]
    return 100 * best / len(values), threshold


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
