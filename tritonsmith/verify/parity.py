"""parity: how far an artifact's answers, in its own runtime on the CPU, are from the reference."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.artifact import read_artifact
from tritonsmith.engines import Predictor, artifact_predictor
from tritonsmith.inputs import Feed
from tritonsmith.tasks import Task
from tritonsmith.verify.reference import read_batches

_BATCH = 4
_LONGEST_BATCHED = 128
FloatArray = npt.NDArray[np.float64]


def run(inputs: Mapping[str, Path], _output: Path, _options: Mapping[str, Any]) -> dict[str, Any]:
    """Compare `inputs["artifact"]` with `inputs["reference"]`.

    The facts are the figures of `compare`, and `batch_max_abs_diff`: what `batch_difference` says.

    Raises:
        StageError: its runtime does not load the model.
    """
    artifact = read_artifact(inputs["artifact"])
    predict = artifact_predictor(inputs["artifact"])
    batches = [(feed, predict(feed), expected) for feed, expected in read_batches(inputs["reference"])]
    return compare(artifact.task, batches) | {"batch_max_abs_diff": batch_difference(predict, batches)}


def batch_difference(predict: Predictor, batches: list[tuple[Feed, Feed, Feed]]) -> float:
    """Return the largest difference of an answer in a batch from the same one alone, over some texts of equal length.

    Dynamic INT8 has one activation scale for a whole batch, so there it is not small.
    """
    largest = 0.0
    by_length: dict[tuple[int, ...], list[tuple[Feed, Feed]]] = collections.defaultdict(list)
    for feed, alone, _expected in batches:
        mask = feed["attention_mask"]
        if mask.shape[0] == 1 and mask.shape[1] <= _LONGEST_BATCHED and len(by_length[mask.shape]) < _BATCH:
            by_length[mask.shape].append((feed, alone))
    for group in by_length.values():
        together = predict({name: np.concatenate([feed[name] for feed, _ in group]) for name in group[0][0]})
        for row, (_feed, alone) in enumerate(group):
            largest = max(largest, *(float(np.abs(together[name][row] - alone[name][0]).max()) for name in alone))
    return largest


def compare(task: Task, batches: list[tuple[Feed, Feed, Feed]]) -> dict[str, Any]:
    """Return the difference between answers and reference over all batches, only where attention_mask is 1.

    Args:
        task: says which answer is read out of the logits.
        batches: inputs [batch, sequence], answers and reference, each by tensor name.

    Returns:
        `max_abs_diff`: largest absolute difference of any value;
        `max_abs_reference`: largest absolute value of the reference;
        `relative_l2`: norm of the difference over norm of the reference;
        `top1_agreement`: share of decisions (argmax) that are the same, None for embeddings;
        `finite`: whether every answer is a finite number.
    """
    differences: list[FloatArray] = []
    references: list[FloatArray] = []
    agreements: list[npt.NDArray[np.bool_]] = []
    for feed, answers, expected in batches:
        mask = feed["attention_mask"].astype(bool)
        for name, reference in expected.items():
            answer = answers[name].astype(np.float64)
            by_token = reference.ndim >= 2 and reference.shape[:2] == mask.shape and task is not Task.TEXT_CLASSIFICATION
            keep = mask if by_token else np.ones(reference.shape[0], dtype=bool)
            differences.append((answer - reference)[keep].ravel())
            references.append(reference.astype(np.float64)[keep].ravel())
            if task is not Task.FEATURE_EXTRACTION:
                agreements.append(_decisions(task, answer, mask) == _decisions(task, reference, mask))
    difference, reference_values = np.concatenate(differences), np.concatenate(references)
    return {
        "max_abs_diff": float(np.abs(difference).max()),
        "max_abs_reference": float(np.abs(reference_values).max()),
        "relative_l2": float(np.linalg.norm(difference)) / max(float(np.linalg.norm(reference_values)), 1e-12),
        "top1_agreement": float(np.concatenate(agreements).mean()) if agreements else None,
        "finite": bool(np.isfinite(difference).all()),
        "values": difference.size,
    }


def _decisions(task: Task, logits: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return what is decided from logits: a position [batch], a class [batch], or a class for each kept token [tokens]."""
    if task is Task.QUESTION_ANSWERING:
        return np.asarray(np.where(mask, logits, -np.inf).argmax(axis=-1))
    decided = logits.argmax(axis=-1)
    return np.asarray(decided if decided.ndim == 1 else decided[mask])
