"""Plants what structured pruning leaves: heads and FFN neurons that are zero, unevenly over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritonsmith.stages.layers import EncoderLayer, encoder_layers, head_size
from tritonsmith.tasks import Task


def prune(source: Path, target: Path, task: Task, dead_heads: Sequence[Sequence[int]], live_neurons: Sequence[int]) -> Path:
    """Write `source` to `target` with the given heads of each layer zeroed and only the first neurons of each left.

    Every second dead head or neuron is zeroed on its input side alone, its bias left, so that it gives a constant.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, task.auto_class).from_pretrained(source)
    with torch.no_grad():
        for layer, heads, neurons in zip(encoder_layers(model), dead_heads, live_neurons, strict=True):
            _randomise_biases(layer)
            _zero(layer, heads, neurons, head_size(model.config))
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def outlier(source: Path, target: Path, factor: float) -> Path:
    """Write the BERT `source` to `target` with one value channel of layer 0 scaled up, and down again behind the attention.

    The answers stay the same in floating point; one INT8 scale for the attention's output leaves nothing of the others.
    """
    import torch
    import transformers

    model = transformers.BertForQuestionAnswering.from_pretrained(source)
    attention = model.bert.encoder.layer[0].attention
    with torch.no_grad():
        attention.self.value.weight[0] *= factor
        attention.self.value.bias[0] *= factor
        attention.output.dense.weight[:, 0] /= factor
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def _randomise_biases(layer: EncoderLayer) -> None:
    """A fresh checkpoint's biases are zero and would hide a constant that gets lost."""
    for linear in (layer.value, layer.attention_output, layer.ffn_input, layer.ffn_output):
        linear.bias.normal_(std=0.3)


def _zero(layer: EncoderLayer, heads: Sequence[int], neurons: int, size: int) -> None:
    for number, head in enumerate(heads):
        block = slice(head * size, (head + 1) * size)
        if number % 2:
            layer.value.weight[block] = 0
        else:
            layer.attention_output.weight[:, block] = 0
    dead: Any = range(neurons, layer.ffn_input.weight.shape[0])
    for neuron in dead:
        if neuron % 2:
            layer.ffn_input.weight[neuron] = 0
        else:
            layer.ffn_output.weight[:, neuron] = 0
