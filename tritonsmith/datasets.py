"""A user's own examples by task: what a metric is computed on, and what a quantiser is calibrated with.

question-answering      SQuAD v1.1 or v2.0 JSON; no answers: unanswerable
text-classification     JSON lines {"text", "text_pair" (if any), "label": a name of config.json's id2label or a number}
token-classification    JSON lines {"tokens": [words], "tags": [one a word, IOB names or numbers]}
feature-extraction      JSON lines {"sentence1", "sentence2", "score": how similar they are}
fill-mask               JSON lines {"text"}, for calibration only
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tritonsmith.errors import UsageError
from tritonsmith.tasks import Task

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question of a SQuAD file."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    """The accepted answers; empty for an unanswerable question."""

    @property
    def texts(self) -> tuple[str, str | None]:
        """What a model reads."""
        return self.question.strip(), self.context


@dataclass(frozen=True)
class LabelledText:
    """A text, or a pair of texts, and its class."""

    text: str
    text_pair: str | None
    label: str | int

    @property
    def texts(self) -> tuple[str, str | None]:
        """What a model reads."""
        return self.text, self.text_pair


@dataclass(frozen=True)
class TaggedWords:
    """Words and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str | int, ...]

    @property
    def texts(self) -> tuple[str, str | None]:
        """What a model reads."""
        return " ".join(self.words), None


@dataclass(frozen=True)
class ScoredPair:
    """Two sentences and how similar people find them."""

    first: str
    second: str
    score: float

    @property
    def texts(self) -> tuple[str, str | None]:
        """What a model reads; the second sentence is read on its own too."""
        return self.first, None


@dataclass(frozen=True)
class Text:
    """A text without anything to score."""

    text: str

    @property
    def texts(self) -> tuple[str, str | None]:
        """What a model reads."""
        return self.text, None


Example = Question | LabelledText | TaggedWords | ScoredPair | Text


def read_dataset(file: Path, task: Task, option: str = "--dataset") -> list[Example]:
    """Read the examples of `file` for `task`; `option` names it in errors.

    Raises:
        UsageError: no such file, not of the task's format, or empty.
    """
    if not file.is_file():
        raise UsageError(f"{option} {file}: no such file")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {file}: cannot be read as UTF-8 text: {error}") from None
    if task is Task.QUESTION_ANSWERING:
        examples: list[Example] = _read_squad(text, f"{option} {file}")
    else:
        examples = _read_lines(text, _READERS[task], f"{option} {file}")
    if not examples:
        raise UsageError(f"{option} {file}: holds no {'questions' if task is Task.QUESTION_ANSWERING else 'examples'}")
    return examples


def spread(examples: Sequence[T], limit: int | None) -> list[T]:
    """Return at most `limit` of the examples, evenly spread over them.

    Raises:
        UsageError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: expected 1 or more")
    if limit is None or limit >= len(examples):
        return list(examples)
    return [examples[index * len(examples) // limit] for index in range(limit)]


def _read_squad(text: str, where: str) -> list[Example]:
    try:
        return [
            Question(entry["id"], entry["question"], paragraph["context"], tuple(answer["text"] for answer in entry["answers"]))
            for article in json.loads(text)["data"]
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: not in SQuAD's JSON format ({type(error).__name__}: {error})") from None


def _read_lines(text: str, reader: Callable[[dict[str, Any]], Example], where: str) -> list[Example]:
    examples = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            examples.append(reader(json.loads(line)))
        except KeyError as error:
            raise UsageError(f"{where}: line {number} has no field {error}") from None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{where}: line {number}: {error}") from None
    return examples


def _labelled_text(entry: dict[str, Any]) -> LabelledText:
    pair = entry.get("text_pair")
    return LabelledText(_text(entry["text"]), None if pair is None else _text(pair), entry["label"])


def _tagged_words(entry: dict[str, Any]) -> TaggedWords:
    words, tags = tuple(_text(word) for word in entry["tokens"]), tuple(entry["tags"])
    if len(words) != len(tags):
        raise ValueError(f"{len(words)} tokens and {len(tags)} tags; expected one tag a token")
    if not words:
        raise ValueError("has no tokens")
    return TaggedWords(words, tags)


def _scored_pair(entry: dict[str, Any]) -> ScoredPair:
    return ScoredPair(_text(entry["sentence1"]), _text(entry["sentence2"]), float(entry["score"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {value!r}")
    return value


_READERS: dict[Task, Callable[[dict[str, Any]], Example]] = {
    Task.TEXT_CLASSIFICATION: _labelled_text,
    Task.TOKEN_CLASSIFICATION: _tagged_words,
    Task.FEATURE_EXTRACTION: _scored_pair,
    Task.FILL_MASK: lambda entry: Text(_text(entry["text"])),
}
