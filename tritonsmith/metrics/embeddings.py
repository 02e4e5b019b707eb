"""Sentence embeddings: does their cosine similarity rank pairs as people do?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.datasets import ScoredPair
from tritonsmith.metrics.model import Model


def score_pairs(model: Model, examples: Sequence[ScoredPair]) -> dict[str, float]:
    """Return `spearman` and `pearson` correlation, times 100, of cosine similarity with the pairs' scores."""
    from scipy import stats

    golds = [example.score for example in examples]
    found = [cosine(embed(model, example.first), embed(model, example.second)) for example in model.track(examples)]
    return {
        "spearman": 100 * float(stats.spearmanr(golds, found).statistic),
        "pearson": 100 * float(stats.pearsonr(golds, found).statistic),
    }


def embed(model: Model, text: str) -> npt.NDArray[Any]:
    """Return the mean of the last layer's vectors over the text's tokens, shape [hidden]."""
    hidden = model.answer(model.cut(text))["last_hidden_state"][0].astype(np.float64)
    return np.asarray(hidden.mean(axis=0))


def cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the cosine similarity of two vectors."""
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))
