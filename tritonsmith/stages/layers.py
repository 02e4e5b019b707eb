"""The encoder layers of the architectures that can be cut, by one set of names, and how they are made smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.errors import StageError

COMPACT_KEY = "tritonsmith_layers"
"""The field of config.json that gives heads and FFN neurons of each layer of a compacted checkpoint."""


@dataclass(frozen=True)
class EncoderLayer:
    """The linear modules of one layer."""

    attention: Any
    """The module that counts its heads."""
    query_name: str
    key_name: str
    value_name: str
    output_parent: Any
    output_name: str
    ffn_input_parent: Any
    ffn_input_name: str
    ffn_output_parent: Any
    ffn_output_name: str

    @property
    def value(self) -> Any:
        """The value projection, weight [heads * size, hidden]."""
        return getattr(self.attention, self.value_name)

    @property
    def attention_output(self) -> Any:
        """The projection of all heads' values, weight [hidden, heads * size]."""
        return getattr(self.output_parent, self.output_name)

    @property
    def ffn_input(self) -> Any:
        """The projection into the neurons, weight [neurons, hidden]."""
        return getattr(self.ffn_input_parent, self.ffn_input_name)

    @property
    def ffn_output(self) -> Any:
        """The projection out of the neurons, weight [hidden, neurons]."""
        return getattr(self.ffn_output_parent, self.ffn_output_name)

    def keep_heads(self, rows: Sequence[int], heads: int) -> None:
        """Keep `rows` of query, key and value and the same columns of their output; they make up `heads` heads."""
        for name in (self.query_name, self.key_name, self.value_name):
            setattr(self.attention, name, _sliced(getattr(self.attention, name), rows, dim=0))
        setattr(self.output_parent, self.output_name, _sliced(self.attention_output, rows, dim=1))
        if hasattr(self.attention, "n_heads"):  # DistilBERT
            self.attention.n_heads, self.attention.dim = heads, len(rows)
        else:
            self.attention.num_attention_heads, self.attention.all_head_size = heads, len(rows)

    def keep_neurons(self, neurons: Sequence[int]) -> None:
        """Keep the given FFN neurons."""
        setattr(self.ffn_input_parent, self.ffn_input_name, _sliced(self.ffn_input, neurons, dim=0))
        setattr(self.ffn_output_parent, self.ffn_output_name, _sliced(self.ffn_output, neurons, dim=1))


def encoder_layers(model: Any) -> list[EncoderLayer]:
    """Return the layers of a BERT-like (BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA) or DistilBERT model.

    Raises:
        StageError: another architecture.
    """
    base = model.base_model
    bert_like = getattr(getattr(base, "encoder", None), "layer", None)
    if bert_like is not None and all(hasattr(getattr(layer.attention, "self", None), "query") for layer in bert_like):
        return [
            EncoderLayer(
                *(layer.attention.self, "query", "key", "value"),
                *(layer.attention.output, "dense"),
                *(layer.intermediate, "dense"),
                *(layer.output, "dense"),
            )
            for layer in bert_like
        ]
    distilbert = getattr(getattr(base, "transformer", None), "layer", None)
    if distilbert is not None and all(hasattr(layer.attention, "q_lin") for layer in distilbert):
        return [
            EncoderLayer(
                *(layer.attention, "q_lin", "k_lin", "v_lin"),
                *(layer.attention, "out_lin"),
                *(layer.ffn, "lin1"),
                *(layer.ffn, "lin2"),
            )
            for layer in distilbert
        ]
    raise StageError(f"compact: the layers of {model.config.model_type} are not known; BERT, RoBERTa and DistilBERT kinds are")


def head_size(config: Any) -> int:
    """Return the width of one attention head, which pruning heads does not change."""
    return int(config.hidden_size) // int(config.num_attention_heads)


def resize(model: Any, layers: Sequence[dict[str, int]]) -> None:
    """Give a freshly made model the shapes of a compacted one; the weights are still to be loaded."""
    for layer, left in zip(encoder_layers(model), layers, strict=True):
        layer.keep_heads(range(left["heads"] * head_size(model.config)), left["heads"])
        layer.keep_neurons(range(left["neurons"]))


def _sliced(linear: Any, indices: Sequence[int], dim: int) -> Any:
    import torch

    index = torch.tensor(list(indices))
    rows, columns = linear.weight.shape
    shape = (len(index), columns) if dim == 0 else (rows, len(index))
    smaller = torch.nn.Linear(shape[1], shape[0], bias=linear.bias is not None, dtype=linear.weight.dtype)
    with torch.no_grad():
        smaller.weight.copy_(linear.weight.index_select(dim, index))
        if linear.bias is not None:
            smaller.bias.copy_(linear.bias[index] if dim == 0 else linear.bias)
    return smaller.eval()
