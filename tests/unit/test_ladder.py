"""The ladder: rungs in turns, ratios against the first, and what the tool refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import make_tokenizer
from tests.conftest import RunTool, one_error_line
from tritonsmith.bench.ladder import Rung, RungResult, measure
from tritonsmith.bench.statistics import Summary
from tritonsmith.inputs import Feed, TextInputs, load_tokenizer
from tritonsmith.ladder import LadderReport, RungReport, Shape
from tritonsmith.ladder_report import write
from tritonsmith.report import print_ladder
from tritonsmith.stages.random import spread
from tritonsmith.tasks import Task


def test_rungs_take_turns_and_ratios_are_of_the_medians(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    inputs = TextInputs(load_tokenizer(tmp_path / "tokenizer.json"), Task.FILL_MASK, ["input_ids"], 0)
    calls: list[tuple[str, int]] = []

    def engine(name: str, seconds: float) -> Callable[[Feed], Feed]:
        def answer(feed: Feed) -> Feed:
            calls.append((name, feed["input_ids"].shape[1]))
            time.sleep(seconds)
            return {}

        return answer

    rungs = [Rung("slow", 4, engine("slow", 0.02)), Rung("fast", 2, engine("fast", 0.005))]
    slow, fast = measure(rungs, inputs, [8, 16], rounds=5, warmup=1)
    assert [length for _name, length in calls] == [8] * 12 + [16] * 12
    assert [name for name, _length in calls[:4]] == ["slow", "fast", "fast", "slow"]
    assert slow.speedup == {8: 1.0, 16: 1.0}
    assert fast.latency[16].count == 5
    for length in (8, 16):
        assert fast.speedup[length] == pytest.approx(slow.latency[length].p50 / fast.latency[length].p50)
        low, high = fast.quartiles[length]
        assert 1 < low <= high


@pytest.mark.parametrize("share", [0.01, 0.35, 0.5, 1.0])
def test_random_pruning_is_uneven_and_adds_up(share: float) -> None:
    kept = spread(np.random.default_rng(0), 12, 64, share)
    assert sum(kept) == max(12, round(12 * 64 * share))
    assert all(1 <= count <= 64 for count in kept)
    assert len(set(kept)) > 1 or share in (0.01, 1.0)


def test_ladder_of_the_demo(run_tool: RunTool, tmp_path: Path) -> None:
    context = "The second little pig worked a little bit harder."
    entry = {
        "id": "1",
        "question": "Who worked a little bit harder?",
        "answers": [{"text": "The second little pig", "answer_start": 0}],
    }
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": [entry]}]}]}))
    arguments = ("--sequence-lengths", "16,32", "--rounds", "3", "--warmup", "1", "--dataset", dataset, "--no-compile")
    outputs = ("--json", "-", "--report", tmp_path / "report")
    done = run_tool("ladder", "demo", "--recipes", "export,fuse export,int8-dynamic export,openvino", *arguments, *outputs)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    names = [rung["name"] for rung in document["rungs"]]
    assert names == ["PyTorch FP32", "PyTorch BF16", "export", "export + fuse", "export + int8-dynamic", "export + openvino"]
    assert all(rung["latency"]["16"]["count"] == 3 for rung in document["rungs"])
    assert document["rungs"][0]["speedup"] == {"16": 1.0, "32": 1.0}
    assert document["rungs"][4]["size_bytes"] <= 0.27 * document["rungs"][0]["size_bytes"]
    assert [rung["metric"]["figures"]["f1"] for rung in document["rungs"]] == [100.0] * 6
    assert len({rung["parameters"] for rung in document["rungs"]}) == 1
    assert all(100e6 < rung["peak_bytes"] < 2e9 for rung in document["rungs"])
    first = document["rungs"][0]
    operations = 2 * 6 * (32 * (4 * 384 * 384 + 2 * 384 * 1536) + 2 * 32 * 32 * 384)
    assert first["gflops"]["32"] == pytest.approx(operations / first["latency"]["32"]["p50"] / 1e6)
    assert set(document["peaks"]) == {"fp32", "bf16", "int8"}
    assert json.loads((tmp_path / "report" / "ladder.json").read_text()) == document
    check_report(tmp_path / "report", names)


def test_build_with_a_ladder(run_tool: RunTool, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ("--recipe", "export,int8-dynamic", "--max-length", "32", "--repository", tmp_path / "repository", "--json")
    done = run_tool("build_repo", checkpoint("bert"), *arguments, "--ladder")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["version"] == 1
    names = [rung["name"] for rung in document["ladder"]["rungs"]]
    assert names == ["PyTorch FP32", "PyTorch BF16", "export", "export + int8-dynamic"]
    assert list(document["ladder"]["rungs"][3]["speedup"]) == ["32"]


def check_report(folder: Path, names: list[str]) -> None:
    """The page stands alone and shows every rung; the Markdown is tables of equal rows."""
    page = (folder / "ladder.html").read_text()
    assert "<svg" in page
    assert not re.findall(r"<(?:script|link|img)|(?:src|href)=\"https?:|url\(http", page)
    text = (folder / "ladder.md").read_text()
    for name in names:
        assert page.count(f">{name}<") >= 3  # in both tables and the picture
        assert text.count(f"| {name} |") == 2
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [2 + len(names)] * 2
    for table in tables:
        assert len({row.count("|") for row in table}) == 1


def test_picture_of_speed_alone(tmp_path: Path) -> None:
    summary = Summary(3, 2.0, 0.1, 2.0, 2.1, 2.2)
    rungs = [
        RungReport(
            RungResult(name, 4_000_000, {16: summary}, {16: ratio}, {16: (ratio, ratio)}), 10, 10, {16: 1.0}, "fp32", None
        )
        for name, ratio in (("slow & old", 1.0), ("fast", 3.0))
    ]
    write(LadderReport("m", 2, {"processor": "p", "cores": 2}, {"fp32": 9.0}, rungs, ["a < b"]), tmp_path / "report")
    page = (tmp_path / "report" / "ladder.html").read_text()
    assert "slow &amp; old" in page
    assert "a &lt; b" in page
    assert "times faster than slow" in page
    assert "a < b" in (tmp_path / "report" / "ladder.md").read_text()


def test_a_narrow_terminal_squeezes_no_column(capfd: pytest.CaptureFixture[str]) -> None:
    summary = Summary(3, 2.0, 0.1, 2.0, 2.1, 2.2)
    lengths = (32, 64, 128, 256)
    measured = RungResult(
        "compact + export + int8-dynamic", 4_000_000, dict.fromkeys(lengths, summary), dict.fromkeys(lengths, 1.0), {}
    )
    rungs = [RungReport(measured, 10, 10, dict.fromkeys(lengths, 1.0), "fp32", None)]
    print_ladder(LadderReport("m", 2, {"processor": "p", "cores": 2}, {"fp32": 9.0}, rungs, []))
    printed = capfd.readouterr().err
    assert "compact + export + int8-dynamic" in printed
    assert printed.count("2.0  1.00x") == 4


def test_a_job_s_peak_is_its_own() -> None:
    """A child of a large process is not as large for that."""
    ballast = bytearray(800 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from tritonsmith.worker import _peak_bytes; print(_peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 * 2**20 < int(done.stdout) < 200 * 2**20 < len(ballast)


def test_operations_of_a_compacted_shape() -> None:
    shape = Shape(8, 4, ((2, 16), (2, 16)))
    assert shape.operations(3) == 2 * 2 * (3 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 9 * 8)
    smaller = shape.compacted([{"heads": 1, "neurons": 5}, {"heads": 2, "neurons": 16}])
    assert smaller.operations(3) == shape.operations(3) - 2 * (3 * (4 * 8 * 4 + 2 * 8 * 11) + 2 * 9 * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["random:gpt"], "unknown shape"),
        (["random:bert-base", "--heads-left", "0"], "--heads-left 0.0"),
        (["demo", "--threads", "0"], "--threads 0"),
        (["demo", "--sequence-lengths", "513"], "--sequence-lengths 513"),
        (["demo", "--recipes", " "], "names no recipe"),
        (["demo", "--recipes", "export,magic"], "unknown stage magic"),
        (["demo", "--json", "/nowhere/out.json"], "--json"),
        (["demo", "--report", "README.md"], "--report README.md: is a file"),
        (["demo", "--dataset", "README.md"], "not in SQuAD's JSON format"),
    ],
)
def test_wrong_inputs(run_tool: RunTool, arguments: list[str], message: str) -> None:
    done = run_tool("ladder", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in one_error_line(done)
