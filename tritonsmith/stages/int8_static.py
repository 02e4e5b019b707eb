"""int8-static: QuantizeLinear/DequantizeLinear around the weighted matrix products, activation ranges calibrated on text.

It is the form that TensorRT takes (symmetric activations, for GPUs); asymmetric ones are for CPUs, where ONNX Runtime is 2.5
times faster with unsigned activations. Only inputs are quantised: a product's output in INT8 cost the demo model 9 points of
F1. Products of two activations (attention scores) stay in floating point.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tritonsmith.artifact import MESSAGE_LIMIT, MODEL_FILE, carry_over, read_artifact
from tritonsmith.errors import StageError
from tritonsmith.inputs import Feed
from tritonsmith.stages.calibration import calibration_feeds

_SCRATCH = "scratch"


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Quantise `inputs["artifact"]`, a raw export; the facts count the matrix products.

    Options:
        max_length: the longest calibration text, in tokens; symmetric: activations too, as TensorRT asks;
        exclude: names of nodes to leave in floating point.

    Raises:
        StageError: no activation was quantised.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the calibration texts out one by one."""

        def __init__(self, feeds: list[Feed]) -> None:
            self._feeds: Iterator[Feed] = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    source = read_artifact(inputs["artifact"])
    # Beyond 2 GB the preparation writes a file for every weight.
    (output / _SCRATCH).mkdir()
    prepared = output / _SCRATCH / "prepared.onnx"
    large = source.size_bytes > MESSAGE_LIMIT
    # Without the shapes only the weights would be quantised, silently; the symbolic inference does not know every operator.
    quant_pre_process(source.model, prepared, skip_optimization=True, skip_symbolic_shape=True, save_as_external_data=large)
    feeds = calibration_feeds(source, inputs, int(options["max_length"]))
    exclude = [*unweighted_products(onnx.load(prepared, load_external_data=False).graph), *options["exclude"]]
    quantize_static(
        prepared,
        output / MODEL_FILE,
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QInt8 if options["symmetric"] else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=exclude,
        use_external_data_format=large,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": bool(options["symmetric"]),
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
        },
    )
    shutil.rmtree(output / _SCRATCH)
    carry_over(source, output, "int8")
    nodes = [node.op_type for node in onnx.load(output / MODEL_FILE, load_external_data=False).graph.node]
    if "QuantizeLinear" not in nodes:
        raise StageError("int8-static: the quantizer left every activation in FP32")
    return {
        "quantised_activations": nodes.count("QuantizeLinear"),
        "matmuls": nodes.count("MatMul") + nodes.count("Gemm"),
        "calibration_texts": len(feeds),
        "calibrated_on_packaged_texts": "calibration" not in inputs,
        "left_in_float": list(options["exclude"]),
    }


def unweighted_products(graph: Any) -> list[str]:
    """Return the names of the matrix products of two activations."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and not weights.intersection(node.input)]
