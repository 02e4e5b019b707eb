"""Answers to questions from start and end logits: overlapping windows, only tokens of the context, no span beyond a limit.

The no-answer score is the reference implementations' for SQuAD 2.0 (Devlin et al. 2019, section 4.3): the score of the null
span at the first token, its smallest over the windows, minus the best span's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from tritonsmith.metrics.model import Model


@dataclass(frozen=True)
class Answer:
    """A span of the context: `context[start:end] == text`."""

    text: str
    start: int = 0
    end: int = 0
    score: float = float("-inf")
    """Start logit plus end logit."""
    no_answer_score: float = 0.0
    """How much the null span's score is above the best span's; the larger, the less likely is there an answer."""


class QuestionAnswerer:
    """Answers questions with any engine that gives start and end logits."""

    def __init__(self, model: Model, stride: int = 128, max_answer_length: int = 30) -> None:
        """Answer with `model`.

        Args:
            model: its outputs are start_logits and end_logits [1, sequence].
            stride: tokens that neighbouring windows share; half of what fits where that is less.
            max_answer_length: tokens.
        """
        self._model = model
        self._stride = stride
        self._max_answer_length = max_answer_length

    def answer(self, question: str, context: str) -> Answer:
        """Return the best span over all windows, never the null span; empty if no window has a token of the context."""
        best, null_score = Answer(""), float("inf")
        for window in self._model.question_windows(question.strip(), context, self._stride):
            logits = self._model.answer(window)
            starts, ends = (logits[name][0].astype(np.float64) for name in ("start_logits", "end_logits"))
            null_score = min(null_score, float(starts[0] + ends[0]))
            found = self._best_span(window, starts, ends)
            if found is not None and found[2] > best.score:
                start, end, score = found
                best = Answer(context[start:end], start, end, score)
        if not best.text:
            return Answer("", no_answer_score=float("inf"))
        return Answer(best.text, best.start, best.end, best.score, null_score - best.score)

    def _best_span(self, window: Encoding, starts: npt.NDArray[Any], ends: npt.NDArray[Any]) -> tuple[int, int, float] | None:
        """Return character offsets and score of the window's best span."""
        tokens = [index for index, sequence in enumerate(window.sequence_ids) if sequence == 1]
        if not tokens:
            return None
        first, last = tokens[0], tokens[-1] + 1
        # scores[i, j]: a span from context token i to context token i + j.
        starts, ends = starts[first:last], ends[first:last]
        widths = min(self._max_answer_length, last - first)
        scores = np.full((last - first, widths), -np.inf)
        for offset in range(widths):
            scores[: last - first - offset, offset] = starts[: last - first - offset] + ends[offset:]
        begin, width = (int(index) for index in np.unravel_index(int(scores.argmax()), scores.shape))
        start = window.offsets[first + begin][0]
        end = window.offsets[first + begin + width][1]
        return start, end, float(scores[begin, width])
