"""The ladder: one rung after another from PyTorch to the fastest artifact, measured in turns in one process.

The baseline is PyTorch eager in FP32 with as many threads as every other rung; PyTorch's own best here, BF16, stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tritonsmith.bench.statistics import Summary, summarise
from tritonsmith.engines import Predictor
from tritonsmith.inputs import TextInputs


@dataclass(frozen=True)
class Rung:
    """One engine to measure."""

    name: str
    size_bytes: int
    engine: Predictor


@dataclass(frozen=True)
class RungResult:
    """A rung's latency by length, and how many times faster than the first rung it is."""

    name: str
    size_bytes: int
    latency: dict[int, Summary]
    speedup: dict[int, float]
    """Ratio of the medians, by length."""
    quartiles: dict[int, tuple[float, float]]
    """First and third quartile of the ratio within each round."""


def measure(
    rungs: Sequence[Rung],
    inputs: TextInputs,
    lengths: Sequence[int],
    rounds: int,
    warmup: int,
    on_round: Callable[[], None] = lambda: None,
) -> list[RungResult]:
    """Measure all rungs in turns: in each round every rung answers once, each round starting with another one.

    Args:
        rungs: the first is the baseline.
        inputs: makes the texts.
        lengths: in tokens.
        rounds: measured ones for each length.
        warmup: rounds for each length that are not counted.
        on_round: told when a round is done.
    """
    seconds = {length: np.zeros((len(rungs), rounds)) for length in lengths}
    for length in lengths:
        for number in range(warmup + rounds):
            feed = inputs.exact(length, number)
            for offset in range(len(rungs)):
                which = (number + offset) % len(rungs)
                started = time.perf_counter()
                rungs[which].engine(feed)
                if number >= warmup:
                    seconds[length][which, number - warmup] = time.perf_counter() - started
            on_round()
    return [_result(rung, index, seconds) for index, rung in enumerate(rungs)]


def _result(rung: Rung, index: int, seconds: dict[int, np.ndarray[tuple[int, int], np.dtype[np.float64]]]) -> RungResult:
    latency = {length: summarise(times[index].tolist()) for length, times in seconds.items()}
    speedup, quartiles = {}, {}
    for length, times in seconds.items():
        speedup[length] = float(np.median(times[0]) / np.median(times[index]))
        low, high = np.percentile(times[0] / times[index], [25, 75])
        quartiles[length] = (float(low), float(high))
    return RungResult(rung.name, rung.size_bytes, latency, speedup, quartiles)
