"""SQuAD's exact match and F1, as the official evaluation script defines them.

Rajpurkar et al. 2016 and 2018; https://rajpurkar.github.io/SQuAD-explorer/ (evaluate-v2.0.py).
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.errors import UsageError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)


@dataclass(frozen=True)
class Example:
    """One question of a SQuAD-format file."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    """The accepted answers; empty for an unanswerable question."""


def read_dataset(file: Path) -> list[Example]:
    """Read a SQuAD v1.1 or v2.0 JSON file.

    Raises:
        UsageError: no such file, or not of that format.
    """
    if not file.is_file():
        raise UsageError(f"--dataset {file}: no such file")
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        examples = [
            Example(entry["id"], entry["question"], paragraph["context"], tuple(answer["text"] for answer in entry["answers"]))
            for article in articles
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--dataset {file}: not in SQuAD's JSON format ({type(error).__name__}: {error})") from None
    if not examples:
        raise UsageError(f"--dataset {file}: holds no questions")
    return examples


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


@dataclass(frozen=True)
class Scores:
    """Means over a set of questions, in percent."""

    questions: int
    exact_match: float
    f1: float


def score(examples: Sequence[Example], predictions: Sequence[str]) -> Scores:
    """Score one prediction an example; an empty one says that the question has no answer."""
    pairs = list(zip(examples, predictions, strict=True))
    exact = sum(exact_match(prediction, example.answers) for example, prediction in pairs)
    overlap = sum(f1(prediction, example.answers) for example, prediction in pairs)
    return Scores(len(pairs), 100 * exact / len(pairs), 100 * overlap / len(pairs))
