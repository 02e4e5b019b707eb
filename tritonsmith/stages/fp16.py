"""fp16: weights and arithmetic of a raw or fused ONNX graph to FP16, inputs and outputs left as they are.

ONNX Runtime's own converter; onnxconverter-common's writes a model that does not load, because it leaves the exporter's Cast
nodes at FP32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.artifact import MESSAGE_LIMIT, carry_over, read_artifact, save_model
from tritonsmith.errors import StageError
from tritonsmith.stages.calibration import calibration_feeds
from tritonsmith.stages.probing import tensor_values

_FP16_MAX = 65504.0
_HEADROOM = 2.0
"""Another text may reach further than those that were tried."""
_TEXTS = 6
_LONGEST_TEXT = 128
_SHAPES = {"Shape", "Size"}
_FLOAT, _FLOAT16, _INTEGER_TYPES = 1, 10, {6, 7}  # onnx.TensorProto.DataType
_NOT_ARITHMETIC = {"ArgMax", "ArgMin", "Cast", "NonZero", "Shape", "Size"}
"""Operators whose integers do not depend on how precisely their float input was computed, or which change its type."""


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert `inputs["artifact"]`; the facts tell of nodes that stay FP32.

    These are the ones that compute an index, and those whose values come near FP16's largest on real text, which no run on a
    CPU would show: it computes FP16 graphs in FP32.

    Options:
        max_length: of the texts, in tokens.

    Raises:
        StageError: a weight does not fit into FP16, or an overflow could not be kept out.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    source = read_artifact(inputs["artifact"])
    model = onnx.load(source.model)
    check_range(model)
    feeds = calibration_feeds(source, {}, min(int(options["max_length"]), _LONGEST_TEXT))[-_TEXTS:]
    largest = {
        name: max(float(np.abs(value).max()) for value in values)
        for name, values in tensor_values(source.model, output, text_tensors(model.graph), feeds)
        if values[0].dtype == np.float32
    }
    overflowing = {name for name, value in largest.items() if value > _FP16_MAX / _HEADROOM}
    overflow_nodes = [node.name for node in model.graph.node if overflowing.intersection([*node.input, *node.output])]
    index_nodes = index_arithmetic(model.graph)
    converted = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=DEFAULT_OP_BLOCK_LIST,
        node_block_list=sorted({*index_nodes, *overflow_nodes}),
        # The converter's shape inference holds the whole model in one message, which may have 2 GB at most.
        disable_shape_infer=source.size_bytes > MESSAGE_LIMIT,
    )
    _remove_round_trips(converted.graph)
    check_overflow(converted.graph, overflowing)
    save_model(converted, output)
    carry_over(source, output, "fp16")
    return {
        "index_nodes_kept": len(index_nodes),
        "overflow_nodes_kept": overflow_nodes,
        "largest_activation": max(largest.values()),
    }


def text_tensors(graph: Any) -> list[str]:
    """Return the tensors whose values depend on the token ids; what depends on the mask or a shape alone may be a filler."""
    reached = {"input_ids"}
    for node in graph.node:  # in topological order
        if reached.intersection(node.input) and node.op_type not in _SHAPES:
            reached.update(name for name in node.output if name)
    return sorted(reached - {"input_ids"})


def check_overflow(graph: Any, overflowing: set[str]) -> None:
    """Raise StageError if a tensor that overflows is still cast to FP16 for somebody."""
    used = {name for node in graph.node for name in node.input}
    for node in graph.node:
        if _casts_to(node, {_FLOAT16}) and node.input[0] in overflowing and used.intersection(node.output):
            raise StageError(f"fp16: the values of {node.input[0]} overflow, and it cannot be kept in FP32; leave fp16 out")


def check_range(model: Any) -> None:
    """Raise StageError if a weight is beyond FP16's range; single numbers are mask fillers, which may be clipped."""
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
