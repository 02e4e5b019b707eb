"""The ladder: one rung after another from PyTorch to the fastest artifact, measured in turns in one process.

The baseline is PyTorch eager in FP32 with as many threads as every other rung; PyTorch's own best here, BF16, stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tritonsmith.artifact import read_artifact
from tritonsmith.bench.statistics import Summary, summarise
from tritonsmith.inputs import Feed, TextInputs
from tritonsmith.tasks import Task

Engine = Callable[[Feed], Feed]
"""Answers a feed [1, sequence] with outputs by name."""


@dataclass(frozen=True)
class Rung:
    """One engine to measure."""

    name: str
    size_bytes: int
    engine: Engine


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


def pytorch_engine(path: Path, task: Task, threads: int, bfloat16: bool = False) -> Engine:
    """Return the checkpoint in PyTorch eager; `threads` holds for the whole process."""
    import torch

    from tritonsmith.stages.loading import load_model

    torch.set_num_threads(threads)
    model = load_model(path, task, trust_remote_code=False)
    if bfloat16:
        model = model.to(torch.bfloat16)

    def answer(feed: Feed) -> Feed:
        with torch.inference_mode():
            output = model(**{name: torch.from_numpy(value) for name, value in feed.items()})
        return {name: value.float().numpy() for name, value in output.items() if torch.is_tensor(value)}

    return answer


def onnx_engine(path: Path, threads: int) -> Engine:
    """Return an artifact in ONNX Runtime on the CPU."""
    import onnxruntime

    artifact = read_artifact(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(artifact.model, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in artifact.outputs]

    def answer(feed: Feed) -> Feed:
        return dict(zip(names, session.run(names, feed), strict=True))

    return answer


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
