"""What a metric needs of a model: an engine, and how texts become its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from tritonsmith.engines import Predictor
from tritonsmith.inputs import Feed, load_tokenizer

if TYPE_CHECKING:
    from tritonsmith.artifact import Artifact
    from tritonsmith.checkpoint import Checkpoint

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """An engine with its tokenizer."""

    predict: Predictor
    tokenizer: Tokenizer
    """Without truncation."""
    input_names: list[str]
    """Which of input_ids, attention_mask and token_type_ids the engine takes."""
    labels: Mapping[int, str] = field(default_factory=dict)
    """The names of classes or tags by number."""
    max_length: int = 384
    """Tokens in a window, special tokens included."""
    on_example: Callable[[], None] = lambda: None
    """Told when an example is done."""

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, predict: Predictor) -> Self:
        """Return the checkpoint's model behind `predict`, which leaves out the inputs that it does not take."""
        names = ["input_ids", "attention_mask", "token_type_ids"]
        tokenizer = load_tokenizer(checkpoint.path / "tokenizer.json")
        return cls(predict, tokenizer, names, dict(enumerate(checkpoint.labels)), checkpoint.max_length)

    @classmethod
    def of_artifact(cls, artifact: Artifact, predict: Predictor) -> Self:
        """Return the artifact's model behind `predict`."""
        names = [spec.name for spec in artifact.inputs]
        tokenizer = load_tokenizer(artifact.path / "tokenizer.json")
        return cls(predict, tokenizer, names, dict(enumerate(artifact.labels)), artifact.max_length)

    def cut(self, first: str, second: str | None = None) -> Encoding:
        """Return the text, or pair of texts, cut to `max_length` tokens."""
        return self._encode(first, second, 0, "longest_first")[0]

    def windows(self, text: str, stride: int) -> list[Encoding]:
        """Return the text in windows of at most `max_length` tokens, neighbours sharing `stride`."""
        return self._encode(text, None, min(stride, self.max_length // 2), "longest_first")

    def question_windows(self, question: str, context: str, stride: int) -> list[Encoding]:
        """Return the context in windows, the whole question before each; a question longer than half a window is cut."""
        tokens = self.tokenizer.encode(question, add_special_tokens=False)
        if len(tokens.ids) > self.max_length // 2:
            question = question[: tokens.offsets[self.max_length // 2 - 1][1]]
        room = self.max_length - len(self.tokenizer.encode(question, "").ids)
        return self._encode(question, context, min(stride, max(room // 2, 0)), "only_second")

    def _encode(self, first: str, second: str | None, stride: int, strategy: str) -> list[Encoding]:
        self.tokenizer.enable_truncation(self.max_length, stride=stride, strategy=strategy)
        try:
            encoding = self.tokenizer.encode(first, second)
        finally:
            self.tokenizer.no_truncation()
        return [encoding, *encoding.overflowing]

    def feed(self, window: Encoding) -> Feed:
        """Return a window as the engine's inputs [1, sequence]."""
        values = {"input_ids": window.ids, "attention_mask": window.attention_mask, "token_type_ids": window.type_ids}
        return {name: np.array([values[name]], dtype=np.int64) for name in self.input_names}

    def answer(self, window: Encoding) -> Feed:
        """Return the engine's outputs [1, ...] for one window."""
        return self.predict(self.feed(window))

    def track(self, examples: Iterable[T]) -> Iterable[T]:
        """Yield the examples, telling `on_example` of each that is done."""
        for example in examples:
            yield example
            self.on_example()
