"""sensitivity: which nodes lose most by INT8, judged by each node's own output on real text.

For every matrix product with a constant weight: its input in uint8 (one scale a tensor) and its weight in int8 (one scale a
column), both rounded, against the exact product. For every embedding: its table in int8. What remains is one ratio a node:
the energy of the error over the energy of the output, the inverse of the signal-to-quantisation-noise ratio.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.artifact import read_artifact
from tritonsmith.errors import StageError
from tritonsmith.stages.calibration import calibration_feeds
from tritonsmith.stages.probing import Array, tensor_values

_TEXTS = 6
_PRODUCTS = ("MatMul", "Gemm", "Attention")


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Rank the nodes of `inputs["artifact"]`; the fact `nodes` is a list of [name, error ratio], the worst first.

    Options:
        max_length: of the texts, in tokens; embeddings: whether these will be quantised too.

    Raises:
        StageError: the graph has nothing to quantise.
    """
    import onnx
    from onnx import numpy_helper

    source = read_artifact(inputs["artifact"])
    model = onnx.load(source.model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    errors: dict[str, float] = {}
    products = []
    for node in model.graph.node:
        if node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in weights:
            products.append(node)
        elif options["embeddings"] and node.op_type == "Gather" and node.input[0] in weights:
            table = numpy_helper.to_array(weights[node.input[0]])
            errors[node.name] = error_ratio(table, rounded(table, symmetric=True))
    if not products:
        raise StageError("sensitivity: the graph has no matrix product with a constant weight")
    feeds = calibration_feeds(source, inputs, min(int(options["max_length"]), 128))[-_TEXTS:]
    by_input: dict[str, list[Any]] = collections.defaultdict(list)
    for node in products:
        by_input[node.input[0]].append(node)
    for name, values in tensor_values(source.model, output, list(by_input), feeds):
        for node in by_input[name]:
            weight = numpy_helper.to_array(weights[node.input[1]]).astype(np.float32)
            if node.op_type == "Gemm" and any(entry.name == "transB" and entry.i for entry in node.attribute):
                weight = weight.T
            errors[node.name] = _product_error(values, weight)
    return {"nodes": sorted(errors.items(), key=lambda item: -item[1])}


def _product_error(activations: list[Array], weight: Array) -> float:
    approximate = rounded(weight, symmetric=True, axis=0)
    lost = total = 0.0
    for activation in activations:
        flat = activation.reshape(-1, activation.shape[-1])
        exact = flat @ weight
        difference = exact - rounded(flat, symmetric=False) @ approximate
        lost += float(np.square(difference, dtype=np.float64).sum())
        total += float(np.square(exact, dtype=np.float64).sum())
    return lost / max(total, 1e-30)


def rounded(values: Array, symmetric: bool, axis: int | None = None) -> Array:
    """Return the values as INT8 keeps them: signed and symmetric, or unsigned with a zero point; scales along `axis`."""
    low = np.minimum(values.min(axis=axis, keepdims=True), 0)
    high = np.maximum(values.max(axis=axis, keepdims=True), 0)
    if symmetric:
        scale = np.maximum(np.maximum(-low, high) / 127, 1e-30)
        return np.asarray(np.clip(np.round(values / scale), -127, 127) * scale, dtype=np.float32)
    scale = np.maximum((high - low) / 255, 1e-30)
    zero = np.round(-low / scale)
    return np.asarray((np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale, dtype=np.float32)


def error_ratio(exact: Array, approximate: Array) -> float:
    """Return the energy of the difference over the energy of the exact values."""
    return float(np.square(exact - approximate).sum()) / max(float(np.square(exact).sum()), 1e-30)
