"""compact: cut out for good what structured pruning has zeroed, so that it is no longer computed.

Block movement pruning (Lagunas et al. 2021) leaves attention heads and FFN neurons whose weights are all zero. One whose input
weights are zero but not its bias gives a constant, which is moved into the bias of the layer behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.errors import StageError
from tritonsmith.inputs import passages
from tritonsmith.stages.layers import COMPACT_KEY, EncoderLayer, encoder_layers, head_size
from tritonsmith.stages.loading import load_model, load_tokenizer
from tritonsmith.tasks import Task

MAX_DIFF = 1e-6
"""Largest difference that cutting may make, relative to the largest value of the answers (at least 1)."""
_PARITY_TOKENS = 128


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Compact `inputs["checkpoint"]` to a checkpoint that `load_model` reads; the facts say what is left of each layer.

    Options:
        task, trust_remote_code.

    Raises:
        StageError: an architecture whose layers are not known, or answers that moved.
    """
    import torch

    task, trust = Task(options["task"]), bool(options["trust_remote_code"])
    # In double precision cutting must change next to nothing; in FP32 the order of summation alone would show.
    model = load_model(inputs["checkpoint"], task, trust).double()
    tokenizer = load_tokenizer(inputs["checkpoint"], trust)
    before = _parameters(model)
    expected = _answers(model, tokenizer)
    with torch.no_grad():
        kept = [_compact_layer(layer, head_size(model.config), model.config) for layer in encoder_layers(model)]
    difference = _difference(expected, _answers(model, tokenizer))
    if difference > MAX_DIFF:
        raise StageError(f"compact: answers moved by {difference:.3g}, at most {MAX_DIFF:g} is allowed")
    model = model.float()
    setattr(model.config, COMPACT_KEY, kept)
    model.config.pruned_heads = {}
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    after = _parameters(model)
    return {
        "layers": kept,
        "parameters_before": before,
        "parameters": after,
        "nothing_to_cut": before == after,
        "diff": difference,
    }


def _compact_layer(layer: EncoderLayer, size: int, config: Any) -> dict[str, int]:
    heads = _live_heads(layer, size)
    rows = [row for head in heads for row in range(head * size, (head + 1) * size)]
    layer.keep_heads(rows, len(heads))
    neurons = _live_neurons(layer, config)
    layer.keep_neurons(neurons)
    return {"heads": len(heads), "neurons": len(neurons)}


def _live_heads(layer: EncoderLayer, size: int) -> list[int]:
    """Return the heads that do something, at least one; constants of the others go into the output's bias."""
    live = []
    for head in range(layer.value.weight.shape[0] // size):
        block = slice(head * size, (head + 1) * size)
        if not layer.attention_output.weight[:, block].any():
            continue
        if layer.value.weight[block].any():
            live.append(head)
            continue
        # Attention probabilities sum to 1, so a constant value passes through unchanged.
        layer.attention_output.bias += layer.attention_output.weight[:, block] @ layer.value.bias[block]
        layer.attention_output.weight[:, block] = 0
    return live or [0]


def _live_neurons(layer: EncoderLayer, config: Any) -> list[int]:
    """Return the FFN neurons that do something, at least one; constants of the others go into the output's bias."""
    from transformers.activations import ACT2FN

    activation = ACT2FN[getattr(config, "hidden_act", None) or config.activation]
    into, out = layer.ffn_input, layer.ffn_output
    fed = into.weight.any(dim=1)
    used = out.weight.any(dim=0)
    constant = used & ~fed
    out.bias += out.weight[:, constant] @ activation(into.bias[constant])
    out.weight[:, constant] = 0
    live: list[int] = (fed & used).nonzero().flatten().tolist()
    return live or [0]


def _parameters(model: Any) -> int:
    return sum(int(parameter.numel()) for parameter in model.parameters())


def _answers(model: Any, tokenizer: Any) -> list[Any]:
    import torch

    answers = []
    for passage in passages():
        encoded = tokenizer(
            passage["text"], truncation=True, max_length=min(_PARITY_TOKENS, _limit(model)), return_tensors="pt"
        )
        with torch.inference_mode():
            output = model(**{name: value for name, value in encoded.items() if name in ("input_ids", "attention_mask")})
        answers += [value for value in output.values() if torch.is_tensor(value)]
    return answers


def _limit(model: Any) -> int:
    """Positions may start behind the padding's, so a few less than the table has."""
    return int(model.config.max_position_embeddings) - 2


def _difference(expected: list[Any], answers: list[Any]) -> float:
    scale = max(1.0, *(float(value.abs().max()) for value in expected))
    return max(float((one - other).abs().max()) for one, other in zip(expected, answers, strict=True)) / scale
