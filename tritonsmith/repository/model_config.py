"""config.pbtxt: a typed description rendered through Jinja, then parsed back by protobuf and compared.

The classes carry the field names of Triton's `model_config.proto`:
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

from tritonsmith.artifact import TensorSpec
from tritonsmith.errors import RepositoryError, UsageError
from tritonsmith.paths import templates_folder

TEMPLATE = "config.pbtxt.j2"


@dataclass(frozen=True)
class InstanceGroup:
    """`ModelInstanceGroup`: how many copies of the model run, and on what."""

    kind: str
    """KIND_CPU or KIND_GPU."""
    count: int = 1
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class DynamicBatching:
    """`ModelDynamicBatching`: requests of identical shape that wait at the same time run as one batch."""

    max_queue_delay_microseconds: int = 0
    preferred_batch_size: tuple[int, ...] = ()
    """Helps TensorRT only; Triton's documentation advises against it elsewhere."""


@dataclass(frozen=True)
class ModelConfig:
    """`ModelConfig`, as far as an ONNX Runtime model needs it."""

    name: str
    max_batch_size: int
    input: tuple[TensorSpec, ...]
    output: tuple[TensorSpec, ...]
    instance_group: tuple[InstanceGroup, ...]
    backend: str = "onnxruntime"
    num_versions: int = 1
    """`version_policy { latest { num_versions } }`: how many of the newest versions are served."""
    dynamic_batching: DynamicBatching | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


def from_graph(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_batch_size: int,
    instance_group: InstanceGroup,
    **options: Any,
) -> ModelConfig:
    """Describe a graph's model: explicit tensors, because Triton's auto-complete would invent batching.

    With `max_batch_size` > 0 the batch dimension is left out of `dims`; with 0 it is in.

    Raises:
        UsageError: an option that cannot be right, or batching asked of a graph whose batch dimension is fixed.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UsageError(f"--name {name}: expected letters, digits, '_', '-' and '.', not starting with '-' or '.'")
    if max_batch_size < 0:
        raise UsageError(f"--max-batch-size {max_batch_size}: expected 0 (no batching) or more")
    if instance_group.count < 1:
        raise UsageError(f"--instances {instance_group.count}: expected 1 or more")
    if options.get("dynamic_batching") and max_batch_size == 0:
        raise UsageError("--dynamic-batching: needs --max-batch-size of at least 1, found 0")
    fixed = next((spec for spec in (*inputs, *outputs) if spec.dims[:1] != (-1,)), None)
    if max_batch_size > 0 and fixed is not None:
        raise UsageError(
            f"--max-batch-size {max_batch_size}: the graph's tensor {fixed.name} has no dynamic batch dimension; use 0"
        )
    skip = 1 if max_batch_size > 0 else 0
    return ModelConfig(
        name=name,
        max_batch_size=max_batch_size,
        input=tuple(TensorSpec(spec.name, spec.data_type, spec.dims[skip:]) for spec in inputs),
        output=tuple(TensorSpec(spec.name, spec.data_type, spec.dims[skip:]) for spec in outputs),
        instance_group=(instance_group,),
        **options,
    )


def render(config: ModelConfig) -> str:
    """Return the text of config.pbtxt.

    Raises:
        RepositoryError: the template's text does not parse, or does not say what `config` says.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (protobuf text, not HTML; strings pass the pbtxt filter)
    )
    environment.filters["pbtxt"] = quote
    text = environment.get_template(TEMPLATE).render(config=config)
    if parse(text, TEMPLATE) != to_message(config):
        raise RepositoryError(f"templates/{TEMPLATE}: the rendered text does not say what was asked for")
    return text


def parse(text: str, where: str) -> ModelConfigMessage:
    """Parse a config.pbtxt; `where` names it in errors.

    Raises:
        RepositoryError: not a ModelConfig in protobuf's text format.
    """
    try:
        return text_format.Parse(text, ModelConfigMessage())
    except text_format.ParseError as error:
        raise RepositoryError(f"{where}: {error}") from None


def to_message(config: ModelConfig) -> ModelConfigMessage:
    """Return the protobuf message for `config`, built without the template."""
    document: dict[str, Any] = {
        "name": config.name,
        "backend": config.backend,
        "max_batch_size": config.max_batch_size,
        "input": [_tensor(spec) for spec in config.input],
        "output": [_tensor(spec) for spec in config.output],
        "instance_group": [
            {"kind": group.kind, "count": group.count, "gpus": list(group.gpus)} for group in config.instance_group
        ],
        "version_policy": {"latest": {"num_versions": config.num_versions}},
        "parameters": {key: {"string_value": value} for key, value in config.parameters.items()},
    }
    if config.dynamic_batching:
        document["dynamic_batching"] = {
            "max_queue_delay_microseconds": config.dynamic_batching.max_queue_delay_microseconds,
            "preferred_batch_size": list(config.dynamic_batching.preferred_batch_size),
        }
    return json_format.ParseDict(document, ModelConfigMessage())


def quote(value: str) -> str:
    """Return `value` as a string of protobuf's text format, whose escapes JSON's are a part of."""
    return json.dumps(value, ensure_ascii=False)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{spec.data_type}", "dims": list(spec.dims)}
