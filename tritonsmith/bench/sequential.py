"""The article's measurement: one client, one request after another, by sequence length."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tritonsmith.bench.statistics import Summary, summarise
from tritonsmith.client import Client
from tritonsmith.errors import ServerError, UsageError
from tritonsmith.inputs import TextInputs

TEXTS = 6
"""Different texts that a length's requests take turns with."""
_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class ServerTimes:
    """Triton's own mean times of the measured requests, in milliseconds."""

    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float

    @property
    def compute(self) -> float:
        """Everything but the queue."""
        return self.compute_input + self.compute_infer + self.compute_output


@dataclass(frozen=True)
class LengthResult:
    """The figures of one sequence length."""

    sequence_length: int
    client: Summary
    server: ServerTimes
    requests_counted_by_server: int

    @property
    def outside_ms(self) -> float:
        """Mean time spent outside Triton's scheduler and model: client library, network, serialising."""
        return self.client.mean - self.server.queue - self.server.compute


def run(
    client: Client,
    model: str,
    inputs: TextInputs,
    lengths: list[int],
    requests: int,
    warmup: int,
    on_request: Callable[[int], None] = lambda _length: None,
) -> list[LengthResult]:
    """Measure each length with `requests` sequential requests of batch 1 after `warmup` that are not counted.

    Args:
        client: a connection; its latency is measured around the whole call.
        model: the served model.
        inputs: makes the feeds.
        lengths: in tokens, special tokens included.
        requests: for each length.
        warmup: for each length.
        on_request: told the length of each request that is done, warm-up included.

    Raises:
        UsageError: a count that cannot be right.
        TritonsmithError: the server fails or refuses.
    """
    if requests < 1:
        raise UsageError(f"--requests {requests}: expected 1 or more")
    if warmup < 0:
        raise UsageError(f"--warmup {warmup}: expected 0 or more")
    results = []
    for length in lengths:
        sends = [client.prepare(model, inputs.request(length, index)) for index in range(TEXTS)]
        for number in range(warmup):
            sends[number % TEXTS]()
            on_request(length)
        before = _counters(client, model)
        latencies = []
        for number in range(requests):
            started = time.perf_counter()
            sends[number % TEXTS]()
            latencies.append(time.perf_counter() - started)
            on_request(length)
        counted, times = _difference(before, _counters(client, model))
        results.append(LengthResult(length, summarise(latencies), times, counted))
    return results


def _counters(client: Client, model: str) -> dict[str, tuple[int, int]]:
    """Return count and nanoseconds by phase, summed over the served versions."""
    totals = dict.fromkeys(("success", *_PHASES), (0, 0))
    for version in client.statistics(model):
        stats: dict[str, Any] = version.get("inference_stats", {})
        for phase in totals:
            entry = stats.get(phase, {})
            count, nanoseconds = totals[phase]
            # Over gRPC 64-bit numbers come as strings.
            totals[phase] = (count + int(entry.get("count", 0)), nanoseconds + int(entry.get("ns", 0)))
    return totals


def _difference(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> tuple[int, ServerTimes]:
    counted = after["success"][0] - before["success"][0]
    if counted < 1:
        raise ServerError("the server's statistics count none of the requests; was the model loaded again meanwhile?")
    means = {phase: (after[phase][1] - before[phase][1]) / counted / 1e6 for phase in _PHASES}
    return counted, ServerTimes(**means)
