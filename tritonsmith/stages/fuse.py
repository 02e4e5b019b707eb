"""fuse: ONNX Runtime's transformer optimizer on a raw export, with its result checked.

Two things go wrong silently elsewhere. Where heads were pruned unevenly, one `num_heads` for the whole graph makes the model
load and answer wrongly: here it comes from each node's own weights. Where a pattern is not recognised, the model stays slow:
here the fused operators are counted against what the architecture must give.

Source of the operators: ONNX Runtime's contrib operators (docs/ContribOperators.md).
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.artifact import carry_over, read_artifact, save_model
from tritonsmith.errors import StageError

LARGE_BYTES = 2**20
"""Smaller matrices may stay where they are."""
_SHARED_BY = 3
_LIGHT = "light.onnx"
_CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's fused operators."""
_OPTIMIZER_TYPES = {"bert": "bert", "roberta": "bert", "xlm-roberta": "bert", "camembert": "bert", "distilbert": "bert"}


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fuse `inputs["artifact"]`; the facts are the counts of fused operators.

    Options:
        level: one of recipes.FUSE_LEVELS.

    Raises:
        StageError: an architecture without fusions, or fewer fused operators than it must give.
    """
    import onnx
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    source = read_artifact(inputs["artifact"])
    if source.model_type not in _OPTIMIZER_TYPES:
        raise StageError(f"fuse: no fusions are known for {source.model_type}; known are {', '.join(sorted(_OPTIMIZER_TYPES))}")
    level = str(options["level"])
    layers, head_size = _shape(source.path / "config.json")
    fusions = FusionOptions(_OPTIMIZER_TYPES[source.model_type])
    fusions.enable_attention = level != "basic"
    for name in ("enable_embed_layer_norm", "enable_bias_skip_layer_norm", "enable_bias_gelu", "enable_skip_layer_norm"):
        setattr(fusions, name, level == "all")
    # The optimizer holds five copies of what it is given, so it is not given the weights that no fusion reads.
    light = onnx.load(source.model)
    weights = take_weights(light)
    onnx.save(light, output / _LIGHT)
    del light
    optimizer = optimize_model(
        str(output / _LIGHT), model_type=_OPTIMIZER_TYPES[source.model_type], optimization_options=fusions, opt_level=0
    )
    (output / _LIGHT).unlink()
    heads = correct_head_counts(optimizer.model, head_size) if level != "basic" else []
    counts = collections.Counter(node.op_type for node in optimizer.model.graph.node)
    check_counts(counts, level, layers)
    optimizer.topological_sort()
    model = optimizer.model
    give_weights(model, weights)
    if not any(entry.domain == _CONTRIB for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_CONTRIB, 1))
    save_model(model, output)
    carry_over(source, output, source.precision)
    fused = {name: count for name, count in sorted(counts.items()) if name in _COUNTED}
    return {"level": level, "fused": fused, "heads": heads}


_COUNTED = {
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "Gelu", "LayerNormalization", "SkipLayerNormalization",
}  # fmt: skip


def take_weights(model: Any) -> dict[str, bytes]:
    """Empty the large weights of a model's matrix products but query, key and value, which attention fusion joins.

    These share an input; no other three products do.

    Returns:
        Their bytes by name, for `give_weights`.
    """
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    sharing = collections.Counter(node.input[0] for node in products)
    unread = {node.input[1] for node in products if sharing[node.input[0]] < _SHARED_BY}
    weights = {}
    for tensor in model.graph.initializer:
        if tensor.name in unread and len(tensor.raw_data) >= LARGE_BYTES:
            weights[tensor.name] = tensor.raw_data
            tensor.raw_data = b""
    return weights


def give_weights(model: Any, weights: Mapping[str, bytes]) -> None:
    """Fill what `take_weights` emptied.

    Raises:
        StageError: a matrix has no values, because it was renamed.
    """
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name]
        elif len(tensor.dims) == 2 and all(tensor.dims) and not (tensor.raw_data or tensor.float_data):
            raise StageError(f"fuse: {tensor.name} has lost its values")


def correct_head_counts(model: Any, head_size: int) -> list[int]:
    """Set `num_heads` of each Attention node from the width of its own weights; return the counts in graph order."""
    import onnx

    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    counts = []
    for node in model.graph.node:
        if node.op_type != "Attention":
            continue
        width = shapes[node.input[1]][1] // 3  # query, key and value side by side: [hidden, 3 * heads * head_size]
        if width % head_size:
            raise StageError(f"fuse: {node.name} is {width} wide, which is no multiple of the head size {head_size}")
        kept = [attribute for attribute in node.attribute if attribute.name != "num_heads"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("num_heads", width // head_size)])
        counts.append(width // head_size)
    return counts


def check_counts(counts: Mapping[str, int], level: str, layers: int) -> None:
    """Raise StageError if the graph has fewer fused operators than `layers` encoder layers must give."""
    expected: dict[tuple[str, ...], int] = {}
    expected[("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")] = 2 * layers + 1
    expected[("Gelu", "BiasGelu", "FastGelu")] = layers
    if level != "basic":
        expected[("Attention",)] = layers
    if level == "all":
        expected[("SkipLayerNormalization",)] = 2 * layers
    for operators, least in expected.items():
        found = sum(counts.get(operator, 0) for operator in operators)
        if found < least:
            raise StageError(
                f"fuse: the pattern of {' or '.join(operators)} was found {found} times, {layers} layers must give {least}; "
                "the graph would be slow; leave fuse out of the recipe"
            )


def _shape(file: Path) -> tuple[int, int]:
    """Return the number of encoder layers and the width of a head; DistilBERT has its own names for them."""
    config = json.loads(file.read_text(encoding="utf-8"))
    layers = config.get("num_hidden_layers") or config["n_layers"]
    hidden = config.get("hidden_size") or config["dim"]
    heads = config.get("num_attention_heads") or config["n_heads"]
    return int(layers), int(hidden) // int(heads)
