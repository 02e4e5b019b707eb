"""Model inputs of exactly the asked-for length, made from real text.

The passages are public-domain English and one paragraph of accents and other scripts. Random ids or masks would measure and
verify something that no user sends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tritonsmith.errors import UsageError
from tritonsmith.paths import ASSETS
from tritonsmith.tasks import Task

Feed = dict[str, npt.NDArray[Any]]
"""Model inputs by name, each of shape [batch, sequence]."""


@cache
def passages() -> list[dict[str, Any]]:
    """Return the packaged texts, each with a title, its text and questions about it."""
    loaded: list[dict[str, Any]] = json.loads((ASSETS / "texts.json").read_text(encoding="utf-8"))
    return loaded


def load_tokenizer(file: Path) -> Tokenizer:
    """Load a tokenizer.json without the truncation and padding that may have been saved with it.

    Raises:
        UsageError: no such file, or not a tokenizer.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such tokenizer file")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises plain Exception
        raise UsageError(f"{file}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class TextInputs:
    """Makes feeds for one model from the packaged texts."""

    def __init__(
        self, tokenizer: Tokenizer, task: Task, input_names: Sequence[str], pad_token_id: int, buckets: Sequence[int] = ()
    ) -> None:
        """Make feeds with `input_names`, a subset of input_ids, attention_mask and token_type_ids.

        `buckets` are the lengths that requests are padded to, where the model is served so.

        Raises:
            UsageError: the model has an input that no text gives.
        """
        unknown = set(input_names) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise UsageError(f"the model wants the input {sorted(unknown)[0]}, which cannot be made from text")
        self._tokenizer = tokenizer
        self._task = task
        self._names = list(input_names)
        self._pad = pad_token_id
        self._buckets = sorted(buckets)

    def exact(self, length: int, index: int = 0) -> Feed:
        """Return the `index`-th real text cut to exactly `length` tokens, special tokens included: shape [1, length]."""
        first, second = self._text(index, length)
        # A question must not be cut while it fits; in the shortest lengths the longer text gives way.
        fits = second is not None and len(self._tokenizer.encode(first, " ").ids) < length
        self._tokenizer.enable_truncation(length, strategy="only_second" if fits else "longest_first")
        try:
            encoding = self._tokenizer.encode(first, second)
        finally:
            self._tokenizer.no_truncation()
        assert len(encoding.ids) == length, (len(encoding.ids), length)
        return self._feed(
            np.array([encoding.ids], dtype=np.int64),
            np.array([encoding.type_ids], dtype=np.int64),
            np.ones((1, length), dtype=np.int64),
        )

    def request(self, length: int, index: int = 0) -> Feed:
        """Return what a client sends for the `index`-th text of `length` tokens: padded to its bucket, if there are any."""
        bucket = next((bucket for bucket in self._buckets if bucket >= length), length)
        return self._pad_together([self.exact(length, index)], bucket)

    def padded(self, lengths: Sequence[int], index: int = 0) -> Feed:
        """Return texts of the given lengths as one right-padded batch: shape [len(lengths), max(lengths)]."""
        return self._pad_together([self.exact(length, index + offset) for offset, length in enumerate(lengths)], max(lengths))

    def _pad_together(self, feeds: Sequence[Feed], longest: int) -> Feed:
        fill = {"input_ids": self._pad, "token_type_ids": 0, "attention_mask": 0}
        return {
            name: np.concatenate(
                [np.pad(feed[name], ((0, 0), (0, longest - feed[name].shape[1])), constant_values=fill[name]) for feed in feeds]
            )
            for name in self._names
        }

    def _text(self, index: int, length: int) -> tuple[str, str | None]:
        texts = passages()
        start = index % len(texts)
        order = texts[start:] + texts[:start]
        questions = order[0]["questions"]
        question = questions[(index // len(texts)) % len(questions)]
        # A token is at least one character, so this always reaches `length`.
        context = ""
        while len(self._tokenizer.encode(context, add_special_tokens=False).ids) < length:
            context += " ".join(passage["text"] for passage in order) + " "
        return (question, context) if self._task.takes_pairs else (context, None)

    def _feed(self, ids: npt.NDArray[Any], types: npt.NDArray[Any], mask: npt.NDArray[Any]) -> Feed:
        arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        return {name: arrays[name] for name in self._names}
