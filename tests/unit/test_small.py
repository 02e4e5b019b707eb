"""The small pure parts: releases, tasks, statistics, logs, probes, command lines of the container."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tritonsmith.bench.statistics import summarise
from tritonsmith.build import default_name, notes_on
from tritonsmith.cli import parse_lengths
from tritonsmith.client import Client
from tritonsmith.errors import ServerError, UnreachableError, UsageError
from tritonsmith.options import BuildOptions, check_options
from tritonsmith.releases import find_release
from tritonsmith.repository.model_config import DynamicBatching, ModelConfig
from tritonsmith.serving import docker
from tritonsmith.serving.health import probe
from tritonsmith.serving.log import readable
from tritonsmith.serving.options import Ports, triton_flags
from tritonsmith.tasks import Task, task_of_architecture


def test_release_between_rows_is_held_to_the_older_one() -> None:
    release = find_release("25.01")
    assert (release.name, release.onnxruntime, release.max_opset, release.max_ir_version) == ("25.01", "1.19.2", 21, 10)
    assert release.image == "nvcr.io/nvidia/tritonserver:25.01-py3"
    assert find_release("26.07").onnxruntime == "1.20.1"


@pytest.mark.parametrize("name", ["24.13", "2410", "", "23.01", "24.10-py3"])
def test_unknown_release(name: str) -> None:
    with pytest.raises(UsageError, match="--triton"):
        find_release(name)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForQuestionAnswering", Task.QUESTION_ANSWERING),
        ("DebertaV2ForSequenceClassification", Task.TEXT_CLASSIFICATION),
        ("MPNetModel", Task.FEATURE_EXTRACTION),
        ("RobertaForMaskedLM", Task.FILL_MASK),
        ("GPT2LMHeadModel", None),
        ("T5ForConditionalGeneration", None),
    ],
)
def test_task_of_architecture(architecture: str, task: Task | None) -> None:
    assert task_of_architecture(architecture) == task


def test_summary_of_known_latencies() -> None:
    summary = summarise([value / 1000 for value in range(1, 101)])
    assert summary.count == 100
    assert summary.mean == pytest.approx(50.5)
    assert summary.p50 == pytest.approx(50.5)
    assert summary.p90 == pytest.approx(90.1)
    assert summary.p99 == pytest.approx(99.01)
    assert summary.std == pytest.approx(29.011, abs=1e-3)
    assert summarise([0.002]).std == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('I1124 16:17:40.770972 2629 model_lifecycle.cc:472] "loading: demo:1"\n', "16:17:40 info  loading: demo:1"),
        ("E1124 16:17:40.771122 2629 model_lifecycle.cc:777] \"failed to load 'x'\"", "16:17:40 error failed to load 'x'"),
        ("I1124 16:42:09.622665 4466 server.cc:604] ", None),
        ("+----+------+", None),
        ("| demo | 1 | READY |", None),
        ("Error: Failed to initialize NVML", None),
        ("error: creating server: Internal", "error: creating server: Internal"),
    ],
)
def test_log_lines(line: str, expected: str | None) -> None:
    assert readable(line) == expected


def test_probe_is_valid_for_any_vocabulary() -> None:
    config = {
        "name": "m",
        "max_batch_size": 8,
        "input": [
            {"name": "input_ids", "data_type": "TYPE_INT64", "dims": ["-1"]},
            {"name": "token_type_ids", "data_type": "TYPE_INT64", "dims": ["-1"]},
            {"name": "scale", "data_type": "TYPE_FP32", "dims": ["3"]},
        ],
    }
    feed = probe(config)
    assert {name: array.shape for name, array in feed.items()} == {
        "input_ids": (1, 8),
        "token_type_ids": (1, 8),
        "scale": (1, 3),
    }
    assert feed["input_ids"].dtype == np.int64
    assert (feed["input_ids"] == 1).all()
    assert (feed["token_type_ids"] == 0).all()
    unbatched = {"name": "m", "max_batch_size": 0, "input": [{"name": "x", "data_type": "TYPE_INT64", "dims": [-1, -1]}]}
    assert probe(unbatched)["x"].shape == (1, 8)
    with pytest.raises(ServerError, match="TYPE_STRING"):
        probe({"name": "m", "input": [{"name": "x", "data_type": "TYPE_STRING", "dims": [1]}]})


def test_container_command() -> None:
    command = docker.command(
        Path("/r"), find_release("25.03"), Ports(18000, 18001, 18002), "127.0.0.1", triton_flags("explicit"), True, "n"
    )
    text = " ".join(command)
    assert "--publish 127.0.0.1:18001:8001" in text
    assert "--volume /r:/models:ro" in text
    assert "--gpus all" in text
    assert "--shm-size 1g" in text
    assert "nvcr.io/nvidia/tritonserver:25.03-py3 tritonserver --model-repository=/models" in text
    assert command[-len(triton_flags("explicit")) :] == triton_flags("explicit")
    without = docker.command(Path("/r"), find_release("25.03"), Ports(), "127.0.0.1", triton_flags("none"), False, "n")
    assert "--gpus" not in without


@pytest.mark.parametrize("url", ["localhost", "localhost:x", ":8001", "localhost:70000", ""])
def test_wrong_url(url: str) -> None:
    with pytest.raises(UsageError, match="--url"):
        Client(url)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nobody_listens(protocol: str) -> None:
    with Client("127.0.0.1:9", protocol, timeout_s=5) as client:
        assert not client.ready()
        with pytest.raises(UnreachableError, match="is it running"):
            client.models()


@pytest.mark.parametrize("text", ["", "32,", "a", "0", "-3", "32;64"])
def test_wrong_lengths(text: str) -> None:
    with pytest.raises(UsageError, match="--sequence-lengths"):
        parse_lengths(text)


def test_lengths() -> None:
    assert parse_lengths("32, 64") == [32, 64]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "--precision fp8"),
        ({"device": "tpu"}, "--device tpu"),
        ({"device": "gpu", "recipe": "export,int8-dynamic"}, "int8-dynamic runs on the CPU only"),
        ({"fuse_level": "most"}, "--fuse-level most"),
        ({"max_length": 8}, "--max-length 8"),
        ({"num_versions": 0}, "--num-versions 0"),
        ({"intra_op_thread_count": -1}, "--intra-op-thread-count"),
        ({"triton": "1"}, "--triton"),
        ({"instances": 0}, "--instances 0"),
        ({"max_batch_size": -1}, "--max-batch-size -1"),
        ({"lengths": (500,)}, "--lengths: 500"),
        ({"settings": ("input=[]", "max_batch=3")}, "max_batch: no such field"),
        ({"dynamic_batching": True, "max_batch_size": 0}, "dynamic_batching"),
    ],
)
def test_build_options_are_checked_before_any_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(BuildOptions("demo", **options))  # type: ignore[arg-type]


def test_costly_combinations_are_told() -> None:
    batching = ModelConfig(name="m", dynamic_batching=DynamicBatching())
    assert "FP32 speed" in notes_on(BuildOptions("demo", precision="fp16"), [], ModelConfig(name="m"))[0]
    assert "batch mates" in notes_on(BuildOptions("demo", precision="int8"), [], batching)[0]
    assert notes_on(BuildOptions("demo", precision="int8"), [], ModelConfig(name="m")) == []


@pytest.mark.parametrize(
    ("model", "name"),
    [("demo", "demo"), ("/x/my model/", "my_model"), ("org/bert-base@main", "bert-base"), (".hidden", "hidden")],
)
def test_default_name(model: str, name: str) -> None:
    assert default_name(model) == name
