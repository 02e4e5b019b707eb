"""The embedded runtime's `openvino` backend: a Triton Python-based backend on pip's OpenVINO.

It serves the same repository as the NGC container's C++ backend of that name, so it reads the same parameters of config.pbtxt.
Source: the openvino_backend README. BATCHING: that backend pads or refuses batches smaller than max_batch_size, so models are
published with `max_batch_size: 0` and the batch in their dims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino
from common import Backend, Feed, first_line, integer, model_path, read_config

_TRITON_TYPES = {
    "boolean": "TYPE_BOOL",
    "i32": "TYPE_INT32",
    "i64": "TYPE_INT64",
    "f16": "TYPE_FP16",
    "f32": "TYPE_FP32",
    "f64": "TYPE_FP64",
}
_BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs that say something of the same tokens."""


class TritonPythonModel:
    """One instance of a model: a compiled OpenVINO model and its inference request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model; raising here is Triton's way to say that it cannot be loaded."""
        config, parameters = read_config(args)
        path = model_path(args, config, "model.xml")
        core = openvino.Core()
        try:
            model = core.read_model(path)
            compiled = core.compile_model(model, "CPU", _properties(core, parameters))
        except RuntimeError as error:
            raise RuntimeError(f"OpenVINO cannot load {path.name}: {_reason(error)}") from None
        request = compiled.create_infer_request()
        names = [entry["name"] for entry in config["output"]]
        vocabulary = _vocabulary(model)

        def run(feed: Feed) -> list[Any]:
            _check_request(feed, vocabulary)
            try:
                request.infer(feed, share_inputs=True)
            except RuntimeError as error:
                raise ValueError(_reason(error)) from None
            # The request writes its next answer to the same memory.
            return [np.array(request.get_tensor(name).data) for name in names]

        self._backend = Backend(config, _tensors(model.inputs), _tensors(model.outputs), run)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests in their order."""
        responses: list[Any] = self._backend.execute(requests)
        return responses


def _properties(core: Any, parameters: Mapping[str, str]) -> dict[str, Any]:
    hint = parameters.get("PERFORMANCE_HINT", "LATENCY").upper()
    if hint not in ("LATENCY", "THROUGHPUT"):
        raise RuntimeError(f"parameter PERFORMANCE_HINT: expected LATENCY or THROUGHPUT, found {hint}")
    properties: dict[str, Any] = {"PERFORMANCE_HINT": hint}
    if "NUM_STREAMS" in parameters:
        streams = parameters["NUM_STREAMS"].upper()
        properties["NUM_STREAMS"] = streams if streams in ("AUTO", "NUMA") else integer(parameters, "NUM_STREAMS")
    for key in ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"):
        if key in parameters:
            properties[key] = integer(parameters, key)
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wants_bf16 = parameters.get("HINT_BF16", "").upper() == "YES"
    properties["INFERENCE_PRECISION_HINT"] = "bf16" if wants_bf16 and has_bf16 else "f32"
    return properties


def _check_request(feed: Feed, vocabulary: Mapping[str, int]) -> None:
    """Refuse what OpenVINO answers without an error: ids that no embedding has, and a mask of another length than the ids."""
    for name, size in vocabulary.items():
        if name in feed and (feed[name].min() < 0 or feed[name].max() >= size):
            raise ValueError(f"input '{name}' has an id out of range: expected 0 to {size - 1}")
    shapes = {name: feed[name].shape for name in _BY_TOKEN if name in feed}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"inputs of unequal shape: {shapes}")


def _vocabulary(model: Any) -> dict[str, int]:
    """Return how many rows the embedding has that an input looks up; OpenVINO answers an id beyond them with zeros."""
    sizes = {}
    for port in model.inputs:
        consumers = [target.get_node() for target in port.get_target_inputs()]
        consumers += [
            target.get_node()
            for node in consumers
            if node.get_type_name() == "Convert"
            for target in node.output(0).get_target_inputs()
        ]
        for node in consumers:
            table = node.input_value(0).get_partial_shape() if node.get_type_name() == "Gather" else None
            if table is not None and len(table) == 2 and table[0].is_static:
                sizes[port.get_any_name()] = table[0].get_length()
    return sizes


def _tensors(ports: Sequence[Any]) -> dict[str, tuple[str, list[int]]]:
    return {
        port.get_any_name(): (
            _TRITON_TYPES.get(port.get_element_type().get_type_name(), port.get_element_type().get_type_name()),
            [dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape()],
        )
        for port in ports
    }


def _reason(error: Exception) -> str:
    """Return the line of OpenVINO's message that says what is wrong; the lines before it name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check "))]
    return telling[-1] if telling else first_line(error)
