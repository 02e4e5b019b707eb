"""The ladder: rungs in turns, ratios against the first, and what the tool refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import make_tokenizer
from tests.conftest import RunTool, one_error_line
from tritonsmith.bench.ladder import Rung, measure
from tritonsmith.inputs import Feed, TextInputs, load_tokenizer
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
    arguments = ("--sequence-lengths", "16,32", "--rounds", "3", "--warmup", "1", "--dataset", dataset, "--json", "-")
    done = run_tool("ladder", "demo", "--recipes", "export,fuse export,int8-dynamic export,openvino", *arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    names = [rung["name"] for rung in document["rungs"]]
    assert names == ["PyTorch FP32", "PyTorch BF16", "export", "export + fuse", "export + int8-dynamic", "export + openvino"]
    assert all(rung["latency"]["16"]["count"] == 3 for rung in document["rungs"])
    assert document["rungs"][0]["speedup"] == {"16": 1.0, "32": 1.0}
    assert document["rungs"][4]["size_bytes"] <= 0.27 * document["rungs"][0]["size_bytes"]
    assert {name: scores["figures"]["f1"] for name, scores in document["scores"].items()} == dict.fromkeys(names, 100.0)


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
    ],
)
def test_wrong_inputs(run_tool: RunTool, arguments: list[str], message: str) -> None:
    done = run_tool("ladder", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in one_error_line(done)
