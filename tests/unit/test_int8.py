"""INT8 in its forms: calibrated on the user's texts, in the form TensorRT takes, mixed where it costs too much."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.checkpoints import ARCHITECTURES, MAX_LENGTH
from tests.pruning import outlier
from tritonsmith.build import build
from tritonsmith.errors import UsageError, VerificationError
from tritonsmith.inputs import passages
from tritonsmith.options import BuildOptions
from tritonsmith.repository.rendering import parse
from tritonsmith.stages.sensitivity import error_ratio, rounded

Build = Callable[..., Any]
OUTLIER_NODE = "/bert/encoder/layer.0/attention/output/dense/MatMul"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def build_int8(checkpoint: Callable[[str], Path], job_cache: Path, repository: Path) -> Build:
    def run(model: str | Path = "bert", recipe: str | None = "export,int8-static", **options: Any) -> Any:
        folder = checkpoint(model) if model in ARCHITECTURES else model
        defaults: dict[str, Any] = {"max_length": MAX_LENGTH, "repository": repository, "cache": job_cache}
        return build(BuildOptions(str(folder), "m", recipe=recipe, **(defaults | options)))

    return run


def constants(graph: Any, operator: str, position: int) -> list[Any]:
    """Return the constant at `position` of each of the graph's nodes of a kind."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [known[node.input[position]] for node in graph.node if node.op_type == operator]


@pytest.mark.parametrize("architecture", ["distilbert", "mpnet", "deberta-v2"])
def test_static(build_int8: Build, architecture: str) -> None:
    result = build_int8(architecture)
    facts = result.stages[-1].facts
    assert facts["quantised_activations"] >= 2 * 4
    assert facts["calibrated_on_packaged_texts"]
    assert facts["matmuls"] > facts["quantised_activations"]


@pytest.mark.parametrize(("device", "dtype"), [("gpu", np.int8), ("cpu", np.uint8)])
def test_the_form_suits_the_device(build_int8: Build, device: str, dtype: type) -> None:
    """TensorRT takes symmetric signed activations only; unsigned ones are what is fast on a CPU."""
    result = build_int8(recipe=None, precision="int8", device=device) if device == "gpu" else build_int8(device=device)
    graph = onnx.load(result.published.folder / "model.onnx").graph
    zeros = constants(graph, "QuantizeLinear", 2)
    assert len(zeros) == result.stages[-1].facts["quantised_activations"]
    assert {zero.dtype for zero in zeros} == {np.dtype(dtype)}
    assert all(zero == 0 for zero in zeros) is (device == "gpu")
    config = parse((result.published.folder.parent / "config.pbtxt").read_text(), "config.pbtxt")
    assert config.backend == "onnxruntime"


def test_products_of_two_activations_stay_in_float(build_int8: Build) -> None:
    graph = onnx.load(build_int8().published.folder / "model.onnx").graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    inputs = [[made.get(name) for name in node.input] for node in graph.node if node.op_type == "MatMul"]
    assert inputs.count(["DequantizeLinear", "DequantizeLinear"]) == 2 * 6 + 1
    assert len(inputs) == 2 * 8 + 1
    assert "DequantizeLinear" not in [name for pair in inputs if pair[0] != pair[1] for name in pair]


def test_calibration_on_the_user_s_texts(build_int8: Build, tmp_path: Path) -> None:
    """Other texts give other ranges."""
    questions = [{"id": str(n), "question": question, "answers": []} for n, question in enumerate(passages()[1]["questions"])]
    paragraphs = [{"context": passage["text"], "qas": questions} for passage in passages()[1:5]]
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    scales = []
    for options in ({}, {"calibration": texts}):
        result = build_int8(**options)
        facts = result.stages[-1].facts
        assert facts["calibrated_on_packaged_texts"] is not bool(options)
        scales.append(constants(onnx.load(result.published.folder / "model.onnx").graph, "QuantizeLinear", 1))
    assert facts["calibration_texts"] == 12
    assert len(scales[0]) == len(scales[1])
    assert scales[0] != scales[1]
    manifest = json.loads((result.published.folder / "manifest.json").read_text())
    assert manifest["calibration"]["name"] == "texts.json"


@pytest.mark.parametrize("content", [None, "not json"])
def test_wrong_calibration_is_named(build_int8: Build, tmp_path: Path, repository: Path, content: str | None) -> None:
    texts = tmp_path / "texts.json"
    if content is not None:
        texts.write_text(content)
    with pytest.raises(UsageError, match=r"--calibration .*texts\.json: no"):
        build_int8(calibration=texts)
    assert not repository.exists()


@pytest.fixture(scope="module")
def with_outlier(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outlier(checkpoint("bert"), tmp_path_factory.mktemp("outlier") / "bert", factor=1000)


@pytest.mark.parametrize("stage", ["int8-dynamic", "int8-static"])
def test_the_node_that_ruins_int8_is_left_in_float(build_int8: Build, with_outlier: Path, repository: Path, stage: str) -> None:
    with pytest.raises(VerificationError, match="the int8 model's"):
        build_int8(with_outlier, f"export,{stage}", mixed_precision=False)
    assert not repository.exists()
    result = build_int8(with_outlier, f"export,{stage}")
    assert result.stages[-1].facts["left_in_float"] == [OUTLIER_NODE]
    assert result.stages[-1].parity["relative_l2"] < 0.1
    assert f"left 1 node in floating point to stay within its limits: {OUTLIER_NODE}" in " ".join(result.notes)
    manifest = json.loads((repository / "m" / "1" / "manifest.json").read_text())
    assert manifest["stages"][-1]["facts"]["left_in_float"] == [OUTLIER_NODE]


def test_smooth_quant_copes_with_the_outlier(build_int8: Build, with_outlier: Path) -> None:
    result = build_int8(with_outlier, "export,openvino")
    assert result.stages[-1].facts["left_in_float"] == []


def test_what_mixing_does_not_mend_is_said(build_int8: Build, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonsmith.verify import TOLERANCES, Tolerance

    monkeypatch.setitem(TOLERANCES, "int8", Tolerance(max_diff=1e-9, relative_l2=1, top1_agreement=0))
    with pytest.raises(VerificationError, match=r"leaving the worst 8 of 16 nodes in floating point does not mend it"):
        build_int8(recipe="export,int8-dynamic")
    assert not repository.exists()


def test_rounding_to_int8() -> None:
    values = np.array([[-1.0, 0.5, 2.54]], dtype=np.float32)
    np.testing.assert_allclose(rounded(values, symmetric=True), [[-1, 0.5, 2.54]], atol=1e-6)
    shifted = rounded(np.array([[0.0, 100.0, 255.0]], dtype=np.float32), symmetric=False)
    np.testing.assert_array_equal(shifted, [[0, 100, 255]])
    wide = np.array([[1000.0, 0.1], [0.2, 0.3]], dtype=np.float32)
    assert error_ratio(wide[:, 1:], rounded(wide, symmetric=True)[:, 1:]) == 1
    np.testing.assert_allclose(rounded(wide, symmetric=True, axis=0)[:, 1], [0.1, 0.3], rtol=0.01)
