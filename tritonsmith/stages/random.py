"""random: a checkpoint of a well-known shape with random weights, for measuring speed where no trained one is at hand.

Its answers mean nothing. Structures can be zeroed as block movement pruning leaves them, unevenly over the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.stages.layers import encoder_layers, head_size
from tritonsmith.stages.loading import load_tokenizer

SHAPES = {
    "bert-base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "bert-large": {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
}
_SEED = 0


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Write a question-answering BERT of `options["shape"]` with the tokenizer of `inputs["tokenizer"]`.

    Options:
        shape: one of SHAPES; heads_left, neurons_left: the share of each that is not zeroed, over all layers.
    """
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(_SEED)
    tokenizer = load_tokenizer(inputs["tokenizer"], trust_remote_code=False)
    model = BertForQuestionAnswering(BertConfig(vocab_size=len(tokenizer), **SHAPES[options["shape"]]))
    layers = encoder_layers(model)
    generator = np.random.default_rng(_SEED)
    size = head_size(model.config)
    heads, neurons = model.config.num_attention_heads, model.config.intermediate_size
    with torch.no_grad():
        for layer, left in zip(layers, spread(generator, len(layers), heads, float(options["heads_left"])), strict=True):
            for head in generator.permutation(heads)[left:]:
                layer.value.weight[head * size : (head + 1) * size] = 0
                layer.value.bias[head * size : (head + 1) * size] = 0
        for layer, left in zip(layers, spread(generator, len(layers), neurons, float(options["neurons_left"])), strict=True):
            dead = torch.from_numpy(generator.permutation(neurons)[left:])
            layer.ffn_input.weight[dead] = 0
            layer.ffn_output.weight[:, dead] = 0
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {"shape": options["shape"]}


def spread(generator: np.random.Generator, layers: int, count: int, share: float) -> list[int]:
    """Return how many of `count` structures each layer keeps: uneven, at least one, `share` of all of them together."""
    total = max(layers, round(layers * count * share))
    weights = generator.uniform(0.5, 1.5, layers)
    kept = np.clip(np.round(total * weights / weights.sum()), 1, count).astype(int)
    while kept.sum() != total:
        step = 1 if kept.sum() < total else -1
        candidates = np.flatnonzero((kept + step >= 1) & (kept + step <= count))
        kept[generator.choice(candidates)] += step
    return [int(value) for value in kept]
