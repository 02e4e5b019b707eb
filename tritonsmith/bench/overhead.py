"""What serving costs: one request over gRPC against `session.run` on the same file, interleaved in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tritonsmith.bench.statistics import Summary, summarise
from tritonsmith.client import Client
from tritonsmith.inputs import Feed


@dataclass(frozen=True)
class Overhead:
    """Served and bare latency of the same request."""

    model: str
    served: Summary
    bare: Summary
    ratio: float
    """p50 of served over p50 of bare."""
    paired_quartiles: tuple[float, float]
    """First and third quartile of the ratio within each round."""


def measure(
    client: Client,
    model: str,
    file: Path,
    feed: Feed,
    threads: int,
    rounds: int,
    warmup: int,
    on_round: Callable[[], None] = lambda: None,
) -> Overhead:
    """Measure `model` over `client` and `file` in this process, in turns, each round starting with the other one.

    The bare session has the served one's settings: `threads` (0: every core) that do not spin, all graph optimisations.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    calls: list[Callable[[], object]] = [client.prepare(model, feed), lambda: session.run(names, feed)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(warmup + rounds):
        for which in (number % 2, 1 - number % 2):
            started = time.perf_counter()
            calls[which]()
            if number >= warmup:
                seconds[which].append(time.perf_counter() - started)
        on_round()
    served, bare = summarise(seconds[0]), summarise(seconds[1])
    first, third = np.percentile(np.asarray(seconds[0]) / np.asarray(seconds[1]), [25, 75])
    return Overhead(model, served, bare, served.p50 / bare.p50, (float(first), float(third)))
