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

from tritonsmith.artifact import MODEL_FILE, carry_over, read_artifact
from tritonsmith.errors import StageError

_OPTIMIZER_TYPES = {"bert": "bert", "roberta": "bert", "xlm-roberta": "bert", "camembert": "bert", "distilbert": "bert"}


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fuse `inputs["artifact"]`; the facts are the counts of fused operators.

    Options:
        level: one of recipes.FUSE_LEVELS.

    Raises:
        StageError: an architecture without fusions, or fewer fused operators than it must give.
    """
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
    optimizer = optimize_model(
        str(source.model), model_type=_OPTIMIZER_TYPES[source.model_type], optimization_options=fusions, opt_level=0
    )
    heads = correct_head_counts(optimizer.model, head_size) if level != "basic" else []
    counts = collections.Counter(node.op_type for node in optimizer.model.graph.node)
    check_counts(counts, level, layers)
    optimizer.save_model_to_file(str(output / MODEL_FILE), use_external_data_format=_is_large(optimizer.model))
    carry_over(source, output, source.precision)
    fused = {name: count for name, count in sorted(counts.items()) if name in _COUNTED}
    return {"level": level, "fused": fused, "heads": heads}


_COUNTED = {
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "Gelu", "LayerNormalization", "SkipLayerNormalization",
}  # fmt: skip


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


def _is_large(model: Any) -> bool:
    return bool(model.ByteSize() > 2**31 - 2**20)
