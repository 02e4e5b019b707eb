"""Rules on warm-up requests; one that fails keeps the model from loading and may take the whole server down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc.model_config_pb2 import DataType

from tritonsmith.preflight.findings import Finding
from tritonsmith.preflight.model import Model, Target

_BYTES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4, "INT32": 4, "FP32": 4}


def warmup(model: Model, _target: Target) -> Iterator[Finding]:
    """Warm-up: every input, its type and rank, lengths that the model takes, data files that are there and large enough."""
    for index, entry in enumerate(model.config.model_warmup):
        field = f"model_warmup[{index}]"
        most = model.config.max_batch_size
        if entry.batch_size > most:
            message = f"found {entry.batch_size}, max_batch_size is {most}"
            yield model.error("warmup-batch", message, "lower it", f"{field}.batch_size")
        inputs = {tensor.name: tensor for tensor in model.config.input}
        for name in sorted(set(inputs) - set(entry.inputs)):
            if not inputs[name].optional:
                yield model.error("warmup-input", f"lacks the input {name}", "add it", f"{field}.inputs")
        for name in sorted(entry.inputs):
            where = f"{field}.inputs[{name}]"
            if name not in inputs:
                yield model.warning("warmup-input", "the model has no such input; Triton drops it", "remove it", where)
                continue
            yield from _input(model, entry.inputs[name], inputs[name], where)


def _input(model: Model, given: Any, tensor: Any, where: str) -> Iterator[Finding]:
    if given.data_type != tensor.data_type:
        found, expected = DataType.Name(given.data_type), DataType.Name(tensor.data_type)
        yield model.error("warmup-type", f"found {found}, the input is {expected}", "change it", f"{where}.data_type")
    agrees = len(given.dims) == len(tensor.dims) and all(
        have > 0 and want in (-1, have) for have, want in zip(given.dims, tensor.dims, strict=True)
    )
    if not agrees:
        message = f"found {list(given.dims)}, the input has {list(tensor.dims)}; every dimension needs its size"
        yield model.error("warmup-dims", message, "change them", f"{where}.dims")
    elif model.max_length and given.dims and given.dims[-1] > model.max_length:
        message = f"{given.dims[-1]} tokens, the model was built for {model.max_length}"
        yield model.error("warmup-length", message, "shorten it", f"{where}.dims")
    if given.WhichOneof("input_data_type") is None:
        message = "no data: expected one of zero_data, random_data and input_data_file"
        yield model.error("warmup-data", message, "give one", where)
    if given.input_data_file and agrees:
        yield from _file(model, given, f"{where}.input_data_file")


def _file(model: Model, given: Any, where: str) -> Iterator[Finding]:
    if model.folder is None:
        return
    folder = (model.folder / "warmup").resolve()
    path = (folder / given.input_data_file).resolve()
    if not path.is_relative_to(folder):
        message = f"{given.input_data_file} leads out of the folder warmup, and Triton follows it"
        yield model.error("path", message, "move the file there", where)
        return
    name = DataType.Name(given.data_type).removeprefix("TYPE_")
    if not path.is_file():
        yield model.error("warmup-file", f"{given.input_data_file} is not in the folder warmup", "add it", where)
    elif name != "STRING":
        needed = math.prod(given.dims) * _BYTES.get(name, 8)
        found = path.stat().st_size
        if found < needed:
            message = f"{given.input_data_file} has {found} bytes, the dims need {needed}"
            yield model.error("warmup-file", message, "write it again", where)
        elif found > needed:
            message = f"{given.input_data_file} has {found} bytes, the dims take {needed} of them"
            yield model.warning("warmup-file", message, "write it again", where)


RULES = (warmup,)
