"""Texts that a quantiser sees to learn the range of activations: the user's own where given, else the packaged ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tritonsmith.artifact import Artifact
from tritonsmith.datasets import read_dataset, spread
from tritonsmith.inputs import Feed, TextInputs, load_tokenizer
from tritonsmith.metrics.model import Model

TEXTS = 96
"""How many of a user's examples are used, evenly spread."""
_LENGTHS = (16, 32, 64, 128, 256, 384)
_TEXTS_A_LENGTH = 12
_OFFSET = 100
"""The packaged texts are also verified on; from this index on they begin elsewhere and ask other questions."""


def calibration_feeds(artifact: Artifact, inputs: Mapping[str, Path], max_length: int) -> list[Feed]:
    """Return single requests [1, sequence] of at most `max_length` tokens, from `inputs["calibration"]` if it is there.

    Raises:
        UsageError: that file is not of the task's format.
    """
    tokenizer = load_tokenizer(artifact.path / "tokenizer.json")
    names = [spec.name for spec in artifact.inputs]
    if "calibration" not in inputs:
        source = TextInputs(tokenizer, artifact.task, names, artifact.pad_token_id)
        lengths = [length for length in _LENGTHS if length < max_length] + [max_length]
        return [source.exact(length, _OFFSET + index) for index in range(_TEXTS_A_LENGTH) for length in lengths]
    examples = spread(read_dataset(inputs["calibration"], artifact.task, "--calibration"), TEXTS)
    model = Model(lambda feed: feed, tokenizer, names, max_length=max_length)
    return [model.feed(model.cut(*example.texts)) for example in examples]
