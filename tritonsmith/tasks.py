"""The tasks that can be served, and what a task means for the model's class, its outputs and its inputs."""

from __future__ import annotations

from enum import StrEnum

from tritonsmith.errors import UsageError


class Task(StrEnum):
    """A task by the name that optimum and transformers give it."""

    QUESTION_ANSWERING = "question-answering"
    TEXT_CLASSIFICATION = "text-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 (a task's name, not a secret)
    FEATURE_EXTRACTION = "feature-extraction"
    FILL_MASK = "fill-mask"

    @property
    def auto_class(self) -> str:
        """The transformers class that loads a checkpoint with this task's head."""
        return _AUTO_CLASSES[self]

    @property
    def takes_pairs(self) -> bool:
        """Whether an input is two texts (question and context) rather than one."""
        return self is Task.QUESTION_ANSWERING


_AUTO_CLASSES = {
    Task.QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
    Task.TEXT_CLASSIFICATION: "AutoModelForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "AutoModelForTokenClassification",
    Task.FEATURE_EXTRACTION: "AutoModel",
    Task.FILL_MASK: "AutoModelForMaskedLM",
}

_ARCHITECTURE_SUFFIXES = (
    ("ForQuestionAnswering", Task.QUESTION_ANSWERING),
    ("ForSequenceClassification", Task.TEXT_CLASSIFICATION),
    ("ForTokenClassification", Task.TOKEN_CLASSIFICATION),
    ("ForMaskedLM", Task.FILL_MASK),
    ("Model", Task.FEATURE_EXTRACTION),
)


def parse_task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        UsageError: no task is called so.
    """
    try:
        return Task(name)
    except ValueError:
        raise UsageError(f"--task {name}: unknown; expected auto or one of {', '.join(Task)}") from None


def task_of_architecture(architecture: str) -> Task | None:
    """Return the task that a class name from config.json's `architectures` stands for, if it is one of ours."""
    if architecture.endswith("HeadModel"):
        return None
    return next((task for suffix, task in _ARCHITECTURE_SUFFIXES if architecture.endswith(suffix)), None)
