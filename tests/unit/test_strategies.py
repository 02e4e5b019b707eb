"""The comparison of servers: who is measured when, what a failure says, and the article's figures beside ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tritonsmith.bench.strategies import ARTICLE_MS, Strategy, baseline_server, fastapi_prepare, measure
from tritonsmith.errors import RequestError, ServerError
from tritonsmith.inputs import Feed

FEED = {"input_ids": np.ones((1, 4), dtype=np.int64)}


def test_strategies_take_turns_and_are_compared_with_the_first() -> None:
    calls: list[tuple[str, int]] = []

    def strategy(name: str, milliseconds: float) -> Strategy:
        def prepare(feed: Feed) -> Any:
            def send() -> None:
                calls.append((name, feed["input_ids"].shape[1]))
                time.sleep(milliseconds / 1000)

            return send

        return Strategy(name, prepare)

    feeds = {4: [FEED], 8: [{"input_ids": np.ones((1, 8), dtype=np.int64)}]}
    results = measure([strategy("slow", 30), strategy("fast", 3)], feeds, requests=4, warmup=1)
    assert calls[:4] == [("slow", 4), ("fast", 4), ("slow", 8), ("fast", 8)]
    assert calls[4:8] == [("fast", 4), ("slow", 4), ("fast", 8), ("slow", 8)]
    assert len(calls) == 5 * 4
    assert [(result.strategy, result.sequence_length, result.latency.count) for result in results] == [
        ("slow", 4, 4),
        ("slow", 8, 4),
        ("fast", 4, 4),
        ("fast", 8, 4),
    ]
    assert results[0].speedup == 1
    assert results[2].paired_quartiles[0] > 2


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_answers_and_refusals_of_a_baseline() -> None:
    with answering(200, b'{"outputs": {"logits": [[1, 2]]}}') as address:
        answer = fastapi_prepare(address)(FEED)()
        assert isinstance(answer, dict)
        np.testing.assert_array_equal(answer["logits"], [[1, 2]])
    with answering(422, b"input_ids: wrong") as address, pytest.raises(RequestError, match="input_ids: wrong"):
        fastapi_prepare(address)(FEED)()
    with pytest.raises(ServerError, match="does not answer"):
        fastapi_prepare("127.0.0.1:9")(FEED)()


def test_a_baseline_that_ends_says_why(tmp_path: Path) -> None:
    tool = tmp_path / "tool.py"
    tool.write_text("import sys\nprint('error: no such model', file=sys.stderr)\nsys.exit(1)\n")
    with pytest.raises(ServerError, match="ended with 1: no such model"), baseline_server(tool, []):
        pass
    tool.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(ServerError, match="not ready after 1 s"), baseline_server(tool, [], startup_timeout_s=1):
        pass


def test_the_article_s_own_speedups() -> None:
    base = ARTICLE_MS["PyTorch + FastAPI"]
    assert base[32] / ARTICLE_MS["ONNX + FastAPI + IOBinding"][32] == pytest.approx(10.29, abs=0.01)
    assert base[256] / ARTICLE_MS["Triton"][256] == pytest.approx(3.68, abs=0.01)
