"""The metric of a task, computed with any engine on a user's examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.datasets import Example
from tritonsmith.errors import UsageError
from tritonsmith.metrics import embeddings, labels, squad
from tritonsmith.metrics.extractive import QuestionAnswerer
from tritonsmith.metrics.model import Model
from tritonsmith.tasks import Task

PRIMARY = {
    Task.QUESTION_ANSWERING: "f1",
    Task.TEXT_CLASSIFICATION: "accuracy",
    Task.TOKEN_CLASSIFICATION: "f1",
    Task.FEATURE_EXTRACTION: "spearman",
}
"""The figure that a build is held to, by task."""


@dataclass(frozen=True)
class Scores:
    """A task's figures over a set of examples, in percent (correlations times 100)."""

    metric: str
    """The name of the figure that counts."""
    examples: int
    figures: dict[str, float]

    @property
    def value(self) -> float:
        """The figure that counts."""
        return self.figures[self.metric]


def check_scorable(task: Task) -> None:
    """Raise UsageError for a task that has no metric here."""
    if task not in PRIMARY:
        raise UsageError(f"--dataset: {task} has no metric here; it can be scored for {', '.join(PRIMARY)}")


def score(task: Task, model: Model, examples: Sequence[Any], no_answer_threshold: float = 0.0) -> Scores:
    """Score `model` on the examples of `task`.

    Raises:
        UsageError: the task has no metric, or a label is not the model's.
    """
    check_scorable(task)
    if task is Task.QUESTION_ANSWERING:
        answerer = QuestionAnswerer(model)
        answers = [answerer.answer(question.question, question.context) for question in model.track(examples)]
        figures = squad.score(examples, answers, no_answer_threshold)
    elif task is Task.TEXT_CLASSIFICATION:
        figures = labels.score_texts(model, examples)
    elif task is Task.TOKEN_CLASSIFICATION:
        figures = labels.score_words(model, examples)
    else:
        figures = embeddings.score_pairs(model, examples)
    return Scores(PRIMARY[task], len(examples), figures)


def answerable_only(examples: Sequence[Example], option: str) -> list[Example]:
    """Return the questions that have an answer.

    Raises:
        UsageError: none has.
    """
    chosen = [example for example in examples if getattr(example, "answers", True)]
    if not chosen:
        raise UsageError(f"{option}: the dataset has no answerable question")
    return chosen
