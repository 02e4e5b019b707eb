"""The article's second half: the same model behind different servers, one request after another, in turns.

Every strategy is a process of its own and gets the same token ids. Rounds interleave strategies and lengths, so that whatever
else the machine does hits all alike.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tritonsmith.bench.statistics import Summary, summarise
from tritonsmith.errors import RequestError, ServerError
from tritonsmith.inputs import Feed

Send = Callable[[], object]
"""Sends one request and reads its answer."""
Prepare = Callable[[Feed], Send]
"""Serialises a request once."""

ARTICLE_MS = {
    "PyTorch + FastAPI": {32: 14.72, 64: 14.71, 128: 14.99, 256: 16.41},
    "ONNX + FastAPI": {32: 3.47, 64: 3.84, 128: 4.66, 256: 6.15},
    "Triton": {32: 2.08, 64: 2.48, 128: 3.21, 256: 4.46},
    "ONNX + FastAPI + IOBinding": {32: 1.43, 64: 1.45, 128: 1.49, 256: 1.54},
}
"""Mean milliseconds by tokens of the article that this project comes from: BERT-large, pruned and in FP16, on a Tesla T4."""


@dataclass(frozen=True)
class Strategy:
    """One way to serve the model."""

    name: str
    prepare: Prepare


@dataclass(frozen=True)
class StrategyResult:
    """What one strategy took at one length."""

    strategy: str
    sequence_length: int
    latency: Summary
    speedup: float
    """Mean of the first strategy over this one's, at the same length in the same run."""
    paired_quartiles: tuple[float, float]
    """First and third quartile of the speed-up within each round."""


def measure(
    strategies: Sequence[Strategy],
    feeds: Mapping[int, Sequence[Feed]],
    requests: int,
    warmup: int,
    on_round: Callable[[], None] = lambda: None,
) -> list[StrategyResult]:
    """Measure every strategy at every length; the first is the baseline.

    Args:
        strategies: in the order of the report; each round starts with another one.
        feeds: requests by length in tokens, which take turns.
        requests: measured rounds.
        warmup: rounds before them that are not counted.
        on_round: told when a round is done.

    Raises:
        TritonsmithError: a server fails or refuses.
    """
    sends = {(s.name, length): [s.prepare(feed) for feed in some] for s in strategies for length, some in feeds.items()}
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in sends}
    for number in range(warmup + requests):
        first = number % len(strategies)
        for length in feeds:
            for strategy in [*strategies[first:], *strategies[:first]]:
                turns = sends[strategy.name, length]
                send = turns[number % len(turns)]
                started = time.perf_counter()
                send()
                if number >= warmup:
                    seconds[strategy.name, length].append(time.perf_counter() - started)
        on_round()
    return [_result(strategies[0].name, strategy.name, length, seconds) for strategy in strategies for length in feeds]


def _result(baseline: str, name: str, length: int, seconds: Mapping[tuple[str, int], list[float]]) -> StrategyResult:
    mine, base = np.asarray(seconds[name, length]), np.asarray(seconds[baseline, length])
    first, third = np.percentile(base / mine, [25, 75])
    return StrategyResult(
        name, length, summarise(mine.tolist()), float(base.mean() / mine.mean()), (float(first), float(third))
    )


def fastapi_prepare(address: str) -> Prepare:
    """Return how to ask the tensor endpoint of a baseline at `address` (host:port), over one connection that stays open."""
    connection = http.client.HTTPConnection(address, timeout=60)

    def prepare(feed: Feed) -> Send:
        body = json.dumps({name: array.tolist() for name, array in feed.items()}).encode()
        headers = {"content-type": "application/json"}

        def send() -> Feed:
            try:
                connection.request("POST", "/infer", body, headers)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(f"http://{address}: does not answer: {error}") from error
            if response.status != http.client.OK:
                raise RequestError(f"refused by http://{address}: {content.decode(errors='replace')}", str(response.status))
            outputs = json.loads(content)["outputs"]
            return {name: np.asarray(value, dtype=np.float32) for name, value in outputs.items()}

        return send

    return prepare


@contextlib.contextmanager
def baseline_server(tool: Path, arguments: Sequence[str], startup_timeout_s: float = 120.0) -> Iterator[str]:
    """Run `tool` (tools/serve_baseline.py) on a free port for the time of a `with` block; yield its host:port.

    Raises:
        ServerError: it ended, or was not ready in time.
    """
    process = subprocess.Popen(
        [sys.executable, tool, *arguments, "--port", "0"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(target=_drain, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        yield _wait_for_address(process, lines, startup_timeout_s)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        process.stderr.close()


def _drain(stream: Iterable[str], lines: queue.Queue[str]) -> None:
    """Keep the pipe from filling up."""
    for line in stream:
        lines.put(line)


def _wait_for_address(process: subprocess.Popen[str], lines: queue.Queue[str], timeout_s: float) -> str:
    deadline, last = time.monotonic() + timeout_s, ""
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            last = lines.get(timeout=0.2).strip()
            if last.startswith("ready: http://"):
                return last.split()[1].removeprefix("http://")
            continue
        if process.poll() is not None:
            raise ServerError(f"serve_baseline.py ended with {process.returncode}: {last.removeprefix('error: ')}")
    raise ServerError(f"serve_baseline.py was not ready after {timeout_s:.0f} s")
