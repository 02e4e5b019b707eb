"""Texts that a quantiser sees to learn the range of activations."""

from __future__ import annotations

from tritonsmith.artifact import Artifact
from tritonsmith.inputs import Feed, TextInputs, load_tokenizer

_LENGTHS = (16, 32, 64, 128, 256, 384)
_TEXTS_A_LENGTH = 12
_OFFSET = 100
"""The packaged texts are also verified on; from this index on they begin elsewhere and ask other questions."""


def calibration_feeds(artifact: Artifact, max_length: int) -> list[Feed]:
    """Return single requests of several exact lengths up to `max_length` tokens, from the packaged texts."""
    names = [spec.name for spec in artifact.inputs]
    source = TextInputs(load_tokenizer(artifact.path / "tokenizer.json"), artifact.task, names, artifact.pad_token_id)
    lengths = [length for length in _LENGTHS if length < max_length] + [max_length]
    return [source.exact(length, _OFFSET + index) for index in range(_TEXTS_A_LENGTH) for length in lengths]
