"""metric: the task's metric of an artifact, or of the PyTorch checkpoint that it was made from, on a user's dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.artifact import read_artifact
from tritonsmith.datasets import read_dataset, spread
from tritonsmith.engines import artifact_predictor, pytorch_predictor
from tritonsmith.inputs import load_tokenizer
from tritonsmith.metrics.model import Model
from tritonsmith.metrics.scoring import score


def run(inputs: Mapping[str, Path], _output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Score `inputs["artifact"]` on `inputs["dataset"]`; the facts are the fields of Scores.

    With `inputs["checkpoint"]` that is scored in PyTorch, and the artifact only says what the inputs are.

    Options:
        max_length: tokens in a window; limit: only this many examples, or None.

    Raises:
        UsageError: the dataset is not of the task's format, or the task has no metric.
    """
    artifact = read_artifact(inputs["artifact"])
    examples = spread(read_dataset(inputs["dataset"], artifact.task), options["limit"])
    if "checkpoint" in inputs:
        predict = pytorch_predictor(inputs["checkpoint"], artifact.task)
    else:
        predict = artifact_predictor(inputs["artifact"])
    model = Model(
        predict,
        load_tokenizer(artifact.path / "tokenizer.json"),
        [spec.name for spec in artifact.inputs],
        dict(enumerate(artifact.labels)),
        int(options["max_length"]),
    )
    return dataclasses.asdict(score(artifact.task, model, examples))
