"""Extractive question answering: a question and a context to windows of tokens, their logits back to a piece of the context.

The rules are those of transformers' question-answering example: overlapping windows, spans scored by the sum of their start and
end logits, only tokens of the context, no span longer than a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from tritonsmith.engines import Predictor
from tritonsmith.inputs import Feed


@dataclass(frozen=True)
class Answer:
    """A span of the context: `context[start:end] == text`."""

    text: str
    start: int
    end: int
    score: float
    """Start logit plus end logit."""


class QuestionAnswerer:
    """Answers questions with any engine that gives start and end logits."""

    def __init__(
        self,
        predict: Predictor,
        tokenizer: Tokenizer,
        input_names: list[str],
        max_length: int = 384,
        stride: int = 128,
        max_answer_length: int = 30,
    ) -> None:
        """Answer with `predict`.

        Args:
            predict: the engine.
            tokenizer: the model's, without truncation.
            input_names: which of input_ids, attention_mask and token_type_ids the engine takes.
            max_length: tokens in a window, the question and special tokens included.
            stride: tokens that neighbouring windows share.
            max_answer_length: tokens.
        """
        self._predict = predict
        self._tokenizer = tokenizer
        self._names = input_names
        self._max_length = max_length
        self._stride = stride
        self._max_answer_length = max_answer_length

    def answer(self, question: str, context: str) -> Answer:
        """Return the best span over all windows; the empty span if a window has no token of the context."""
        best = Answer("", 0, 0, float("-inf"))
        for window in self._windows(question, context):
            logits = self._predict(self._feed(window))
            found = self._best_span(window, logits["start_logits"][0], logits["end_logits"][0])
            if found is not None and found[2] > best.score:
                start, end, score = found
                best = Answer(context[start:end], start, end, score)
        return best

    def _windows(self, question: str, context: str) -> list[Encoding]:
        self._tokenizer.enable_truncation(self._max_length, stride=self._stride, strategy="only_second")
        try:
            first = self._tokenizer.encode(question.strip(), context)
        finally:
            self._tokenizer.no_truncation()
        return [first, *first.overflowing]

    def _feed(self, window: Encoding) -> Feed:
        values = {"input_ids": window.ids, "attention_mask": window.attention_mask, "token_type_ids": window.type_ids}
        return {name: np.array([values[name]], dtype=np.int64) for name in self._names}

    def _best_span(
        self, window: Encoding, start_logits: npt.NDArray[Any], end_logits: npt.NDArray[Any]
    ) -> tuple[int, int, float] | None:
        """Return character offsets and score of the window's best span."""
        tokens = [index for index, sequence in enumerate(window.sequence_ids) if sequence == 1]
        if not tokens:
            return None
        first, last = tokens[0], tokens[-1] + 1
        # scores[i, j]: a span from context token i to context token i + j.
        starts, ends = start_logits[first:last].astype(np.float64), end_logits[first:last].astype(np.float64)
        widths = min(self._max_answer_length, last - first)
        scores = np.full((last - first, widths), -np.inf)
        for offset in range(widths):
            scores[: last - first - offset, offset] = starts[: last - first - offset] + ends[offset:]
        begin, width = (int(index) for index in np.unravel_index(int(scores.argmax()), scores.shape))
        start = window.offsets[first + begin][0]
        end = window.offsets[first + begin + width][1]
        return start, end, float(scores[begin, width])
