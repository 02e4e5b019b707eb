"""reference: what the PyTorch checkpoint answers on real text, kept as the measure for every artifact made from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.artifact import Artifact, read_artifact
from tritonsmith.errors import VerificationError
from tritonsmith.inputs import Feed, TextInputs, load_tokenizer, passages
from tritonsmith.stages.loading import load_model
from tritonsmith.stages.loading import load_tokenizer as load_checkpoint_tokenizer

FILE = "reference.npz"
_LENGTHS = (8, 16, 32, 64, 128, 256, 384, 512)
_TEXTS_A_LENGTH = 6
_TEXTS_A_LONG_LENGTH = 2
_LONG = 256


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Answer with `inputs["checkpoint"]` what the inputs of `inputs["artifact"]` ask.

    Options:
        max_length: the longest sequence to verify, in tokens; trust_remote_code.

    Raises:
        VerificationError: the exported tokenizer encodes differently from the checkpoint's.
    """
    import torch

    artifact = read_artifact(inputs["artifact"])
    trust = bool(options["trust_remote_code"])
    _compare_tokenizers(inputs["checkpoint"], artifact, trust)
    model = load_model(inputs["checkpoint"], artifact.task, trust)
    arrays: dict[str, Any] = {}
    lengths = verified_lengths(int(options["max_length"]))
    count = 0
    for feed in feeds(artifact, lengths):
        with torch.inference_mode():
            answer = model(**{name: torch.from_numpy(value) for name, value in feed.items()})
        arrays |= {f"{count}.input.{name}": value for name, value in feed.items()}
        arrays |= {f"{count}.output.{spec.name}": answer[spec.name].numpy() for spec in artifact.outputs}
        count += 1
    np.savez(output / FILE, **arrays)
    return {"lengths": lengths, "batches": count}


def verified_lengths(max_length: int) -> list[int]:
    """Return the token lengths to verify: powers of two and the longest that will be served."""
    return [length for length in _LENGTHS if length < max_length] + [max_length]


def feeds(artifact: Artifact, lengths: list[int]) -> Iterator[Feed]:
    """Yield the inputs to compare on: exact lengths one by one, then batches that need right padding."""
    source = TextInputs(
        load_tokenizer(artifact.path / "tokenizer.json"),
        artifact.task,
        [spec.name for spec in artifact.inputs],
        artifact.pad_token_id,
    )
    for length in lengths:
        for index in range(_TEXTS_A_LENGTH if length < _LONG else _TEXTS_A_LONG_LENGTH):
            yield source.exact(length, index)
    yield source.padded(lengths[:4], index=_TEXTS_A_LENGTH)
    yield source.padded(lengths[-3:], index=_TEXTS_A_LENGTH + 4)


def read_batches(folder: Path) -> Iterator[tuple[Feed, Feed]]:
    """Yield the inputs and the reference's outputs, batch by batch, from the folder that `run` wrote."""
    with np.load(folder / FILE) as arrays:
        for number in itertools.count():
            batch: dict[str, Feed] = {"input": {}, "output": {}}
            for key in arrays.files:
                index, side, name = key.split(".", 2)
                if int(index) == number:
                    batch[side][name] = arrays[key]
            if not batch["input"]:
                return
            yield batch["input"], batch["output"]


def _compare_tokenizers(checkpoint: Path, artifact: Artifact, trust: bool) -> None:
    original = load_checkpoint_tokenizer(checkpoint, trust)
    exported = load_tokenizer(artifact.path / "tokenizer.json")
    for passage in passages():
        text = passage["text"]
        if original(text)["input_ids"] != exported.encode(text).ids:
            raise VerificationError(
                f"{artifact.path.name}/tokenizer.json encodes '{passage['title']}' differently from {checkpoint}"
            )
