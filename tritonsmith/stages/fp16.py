"""fp16: weights and arithmetic of a raw ONNX export to FP16, inputs and outputs left as they are.

ONNX Runtime's own converter; onnxconverter-common's writes a model that does not load, because it leaves the exporter's Cast
nodes at FP32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.artifact import MODEL_FILE, carry_over, read_artifact
from tritonsmith.errors import StageError

_FP16_MAX = 65504.0
_FLOAT, _FLOAT16, _INTEGER_TYPES = 1, 10, {6, 7}  # onnx.TensorProto.DataType
_NOT_ARITHMETIC = {"ArgMax", "ArgMin", "Cast", "NonZero", "Shape", "Size"}
"""Operators whose integers do not depend on how precisely their float input was computed, or which change its type."""


def run(inputs: Mapping[str, Path], output: Path, _options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert `inputs["artifact"]`; the facts count the nodes that stay FP32 because they compute an index.

    Raises:
        StageError: a weight does not fit into FP16.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    source = read_artifact(inputs["artifact"])
    model = onnx.load(source.model)
    check_range(model)
    index_nodes = index_arithmetic(model.graph)
    converted = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=DEFAULT_OP_BLOCK_LIST, node_block_list=index_nodes
    )
    _remove_round_trips(converted.graph)
    onnx.save(converted, output / MODEL_FILE)
    carry_over(source, output, "fp16")
    return {"index_nodes_kept": len(index_nodes)}


def check_range(model: Any) -> None:
    """Raise StageError if a weight is beyond FP16's range; single numbers are mask fillers, which may be clipped."""
    import numpy as np
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1 and np.abs(values).max() > _FP16_MAX:
            raise StageError(f"fp16: weight {tensor.name} reaches {np.abs(values).max():.3g}, beyond FP16's {_FP16_MAX:.0f}")


def index_arithmetic(graph: Any) -> list[str]:
    """Return the names of the float nodes whose result is rounded to an integer.

    MPNet and DeBERTa choose a relative position's bucket by a logarithm; in FP16 some land one bucket off, silently.
    """
    producer = {name: node for node in graph.node for name in node.output}
    rounding = [node for node in graph.node if _casts_to(node, _INTEGER_TYPES)]
    names: set[str] = set()
    pending = [name for node in rounding for name in node.input]
    while pending:
        node = producer.get(pending.pop())
        if node is None or node.name in names or node.op_type in _NOT_ARITHMETIC:
            continue
        names.add(node.name)
        pending.extend(node.input)
    return sorted(names)


def _remove_round_trips(graph: Any) -> None:
    """Join FP32 nodes directly that the converter joined through FP16, which rounds what was to be kept exact."""
    producer = {name: node for node in graph.node for name in node.output}
    direct: dict[str, str] = {}
    for node in graph.node:
        source = producer.get(node.input[0]) if _casts_to(node, {_FLOAT}) else None
        if source is not None and _casts_to(source, {_FLOAT16}) and source.name.endswith("_cast_to_fp16_node"):
            direct[node.output[0]] = source.input[0]
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = direct.get(name, name)


def _casts_to(node: Any, types: set[int]) -> bool:
    return node.op_type == "Cast" and any(entry.name == "to" and entry.i in types for entry in node.attribute)
