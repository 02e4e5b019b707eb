"""The comparison of servers, end to end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import RunTool, one_error_line


def test_bench_strategies(run_tool: RunTool, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    arguments = ("--requests", "2", "--warmup", "1", "--sequence-lengths", "16,32", "--threads", "1", "--json", target)
    done = run_tool("bench_strategies", "demo", *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads(target.read_text())["results"]
    assert len(results) == 5 * 2
    assert {result["strategy"] for result in results} >= {"PyTorch + FastAPI", "ONNX + FastAPI + IOBinding", "Triton"}
    assert all(result["latency"]["count"] == 2 and result["latency"]["mean"] > 0 for result in results)
    assert "IOBinding" in done.stdout
    assert "10.29 x" in done.stdout


def test_wrong_options(run_tool: RunTool) -> None:
    for arguments, message in ((("--requests", "0"), "--requests 0"), (("random:gpt",), "unknown shape")):
        done = run_tool("bench_strategies", *arguments)
        assert done.returncode == 2
        assert message in one_error_line(done)
