"""Presets, options and --set: from a graph to a configuration; the golden files show what each preset gives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonsmith.artifact import TensorSpec
from tritonsmith.errors import UsageError
from tritonsmith.inputs import Feed
from tritonsmith.options import BuildOptions, check_options
from tritonsmith.preflight.accelerators import parse_shapes
from tritonsmith.preflight.model import Graph
from tritonsmith.releases import find_release
from tritonsmith.repository.describe import ConfigOptions, Described, Subject, describe
from tritonsmith.repository.presets import DEFAULTS, load_preset, preset_names
from tritonsmith.repository.rendering import render

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("input_ids", "attention_mask")
GRAPH = Graph(
    tuple(TensorSpec(name, "INT64", (-1, -1)) for name in NAMES),
    (TensorSpec("logits", "FP32", (-1, -1, 5)),),
    opset=18,
    ir_version=10,
)


def feed(length: int) -> Feed:
    return {name: np.arange(length, dtype=np.int64)[None] for name in NAMES}


def configure(max_length: int = 384, backend: str = "onnxruntime", graph: Graph = GRAPH, **options: Any) -> Described:
    subject = Subject("ner", backend, graph, max_length, options.pop("precision", "fp32"), feed)
    return describe(ConfigOptions(**options), subject, find_release("24.10"))


def assert_golden(name: str, described: Described) -> None:
    """Compare with the golden file; UPDATE_GOLDEN=1 writes it, for a person to look at the difference."""
    text, file = render(described.config), GOLDEN / f"{name}.pbtxt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("preset", "device"),
    [(name, device) for name in preset_names() for device in load_preset(name).devices],
)
def test_golden(preset: str, device: str) -> None:
    precision = load_preset(preset).precision
    assert_golden(f"{preset}_{device}", configure(preset=preset, device=device, precision=precision))


def test_every_option_by_name() -> None:
    described = configure(
        device="gpu",
        max_batch_size=16,
        instances=2,
        dynamic_batching=True,
        max_queue_delay_microseconds=100,
        num_versions=2,
        intra_op_thread_count=2,
        warmup=False,
        settings=("instance_group.0.gpus=[0, 1]",),
    )
    assert_golden("options", described)


@pytest.mark.parametrize(("device", "batches"), [("cpu", False), ("gpu", True)])
def test_the_device_decides_where_no_preset_is_named(device: str, batches: bool) -> None:
    config = configure(device=device).config
    assert config == configure(device=device, preset=DEFAULTS[device]).config
    assert bool(config.dynamic_batching) is batches


def test_warmup_is_a_request_of_every_length_and_batch() -> None:
    described = configure(preset="throughput", device="gpu", lengths=(32, 100), max_batch_size=4)
    assert [(entry.name, entry.batch_size) for entry in described.config.model_warmup] == [
        ("32 tokens, batch 1", 1),
        ("32 tokens, batch 4", 4),
        ("100 tokens, batch 1", 1),
        ("100 tokens, batch 4", 4),
    ]
    given = described.config.model_warmup[2].inputs["input_ids"]
    assert given.dims == (100,)
    assert given.input_data_file is not None
    assert described.warmup_files[given.input_data_file] == np.arange(100, dtype=np.int64).tobytes()
    assert configure(preset="simple", warmup=True, lengths=(32,)).config.model_warmup[0].inputs["input_ids"].dims == (1, 32)


def test_tensorrt_s_profiles_cover_what_is_served() -> None:
    config = configure(preset="tensorrt", device="gpu", precision="int8", lengths=(64, 128, 384)).config
    assert config.optimization
    assert config.optimization.execution_accelerators
    (tensorrt,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    shapes = [parse_shapes(tensorrt.parameters[f"trt_profile_{end}_shapes"]) for end in ("min", "opt", "max")]
    assert [shape["attention_mask"] for shape in shapes] == [(1, 1), (16, 128), (16, 384)]
    assert tensorrt.parameters["precision_mode"] == "INT8"


@pytest.mark.parametrize(
    ("precision", "stages"), [(None, ("export",)), ("fp16", ("export",)), ("int8", ("export", "int8-static"))]
)
def test_tensorrt_takes_the_raw_graph(precision: str | None, stages: tuple[str, ...]) -> None:
    options = BuildOptions("demo", preset="tensorrt", device="gpu", precision=precision)
    check_options(options)
    assert options.stages == stages
    assert options.served_precision == (precision or "fp16")


def test_buckets_end_with_the_longest_length() -> None:
    assert configure(preset="bucketed", max_length=200).config.parameters["bucket_lengths"] == "64,128,200"


def test_openvino_is_published_without_a_batch_dimension() -> None:
    config = configure(backend="openvino", intra_op_thread_count=2).config
    assert (config.max_batch_size, config.input[0].dims) == (0, (-1, -1))
    assert config.parameters["INFERENCE_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    ("settings", "field", "expected"),
    [
        (("response_cache.enable=true",), "response_cache", {"enable": True}),
        (("version_policy.specific.versions=[1, 3]",), "version_policy", {"specific": {"versions": [1, 3]}}),
        (("parameters.memory.x=cpu:0", "parameters.a=true"), "parameters", {"a": "1", "memory.x": "cpu:0"}),
        (
            ("instance_group.0.count=2", "instance_group.1.kind=KIND_CPU", "instance_group.1.count=1"),
            "instance_group",
            [{"kind": "KIND_CPU", "count": 2}, {"kind": "KIND_CPU", "count": 1}],
        ),
        (("optimization.graph.level=1",), "optimization", {"graph": {"level": 1}}),
        (("max_batch_size=0",), "input", [{"name": name, "data_type": "TYPE_INT64", "dims": [-1, -1]} for name in NAMES]),
    ],
)  # fmt: skip
def test_set(settings: tuple[str, ...], field: str, expected: Any) -> None:
    config = configure(settings=settings).config
    assert config.model_dump(mode="json", by_alias=True, exclude_defaults=True)[field] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "fast"}, "--preset fast: unknown; expected bucketed, cpu"),
        ({"preset": "tensorrt"}, "is for --device gpu"),
        ({"preset": "missing.yaml"}, "--preset missing.yaml"),
        ({"device": "tpu"}, "--device tpu"),
        ({"settings": ("nonsense",)}, "expected key=value"),
        ({"settings": ("dynamic_batching.delay=5",)}, r"--set dynamic_batching.delay=5: dynamic_batching.delay: no such field"),
        ({"settings": ("instance_group.7.count=1",)}, "expected a number up to 1"),
        ({"settings": ("max_batch_size.x=1",)}, "names a field of something that has none"),
        ({"settings": ("max_batch_size=[",)}, "not YAML"),
        ({"settings": ("parameters.intra_op_threads=x", "parameters.execution_mode=7")}, "execution_mode.*expected 0"),
        ({"settings": ("dynamic_batching.preferred_batch_size=[64]",)}, "preferred_batch_size: found 64"),
        ({"dynamic_batching": True, "max_batch_size": 0}, "dynamic_batching: asked for with max_batch_size 0"),
        ({"max_queue_delay_microseconds": 5}, "needs --dynamic-batching"),
        ({"lengths": (400,)}, "--lengths: 400"),
        ({"preset": "throughput", "backend": "openvino"}, "openvino backend pads"),
        ({"graph": Graph((TensorSpec("input_ids", "INT64", (1, -1)),), GRAPH.outputs)}, "batch dimension is fixed"),
        ({"settings": ('instance_group.0.kind="KIND_GPU"',)}, "has no GPU"),
    ],
)
def test_wrong_wishes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configure(**options)


@pytest.mark.parametrize("name", ["../up", "", ".x", "a b", "-a"])
def test_wrong_names(name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        describe(ConfigOptions(), Subject(name, "onnxruntime", GRAPH, 384, "fp32", feed), find_release("24.10"))


def test_a_preset_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lengths: [16, 48]\nwarmup: true\nconfig: {max_batch_size: 2, instance_group: [{count: 3}]}\n")
    config = configure(preset=str(file)).config
    assert (config.max_batch_size, config.instance_group[0].count, len(config.model_warmup)) == (2, 3, 2)
    for text, message in (("config: 3", "config"), ("colour: red", "colour: no such field"), ("[", "mine2.yaml")):
        other = tmp_path / "mine2.yaml"
        other.write_text(text)
        load_preset.cache_clear()
        with pytest.raises(UsageError, match=message):
            configure(preset=str(other))
