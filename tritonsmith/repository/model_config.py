"""config.pbtxt as types: the messages of Triton's `model_config.proto`, with its own field names and defaults.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto

Left out is what an encoder has no use for (sequence batching, custom operators, repository agents). A description says nothing
that the proto does not: what Triton makes of it is the business of `tritonsmith.preflight`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from google.protobuf import json_format
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

from tritonsmith.errors import UsageError

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
UInt32 = Annotated[int, Field(ge=0, lt=2**32)]
UInt64 = Annotated[int, Field(ge=0, lt=2**64)]


def _sorted(value: Any) -> Any:
    """Order a map by its keys: the proto's maps have no order, and one description must give one text."""
    return dict(sorted(value.items(), key=lambda item: str(item[0]))) if isinstance(value, dict) else value


def _texts(value: Any) -> Any:
    """Take the numbers and switches of a YAML file for the strings that Triton wants, and `{string_value: x}` for x."""
    if not isinstance(value, dict):
        return value
    entries = {key: entry.get("string_value", entry) if isinstance(entry, dict) else entry for key, entry in value.items()}
    return _sorted({key: _text(entry) for key, entry in entries.items()})


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value


StringMap = Annotated[dict[str, str], BeforeValidator(_texts)]


class Message(BaseModel):
    """A message of the proto: unknown fields are errors, and nothing changes after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True)


class Reshape(Message):
    """`ModelTensorReshape`: the shape that the model has for a tensor, where it is not the request's."""

    shape: tuple[Int64, ...] = ()


DataType = Literal[
    "TYPE_BOOL",
    "TYPE_UINT8",
    "TYPE_UINT16",
    "TYPE_UINT32",
    "TYPE_UINT64",
    "TYPE_INT8",
    "TYPE_INT16",
    "TYPE_INT32",
    "TYPE_INT64",
    "TYPE_FP16",
    "TYPE_FP32",
    "TYPE_FP64",
    "TYPE_STRING",
    "TYPE_BF16",
]


class ModelInput(Message):
    """`ModelInput`: an input of the model; with `max_batch_size` > 0 its `dims` leave the batch dimension out."""

    name: str
    data_type: DataType
    dims: tuple[Int64, ...] = ()
    reshape: Reshape | None = None
    allow_ragged_batch: bool = False
    optional: bool = False


class ModelOutput(Message):
    """`ModelOutput`: an output of the model, its `dims` as an input's."""

    name: str
    data_type: DataType
    dims: tuple[Int64, ...] = ()
    reshape: Reshape | None = None
    label_filename: str = ""


class BatchInput(Message):
    """`BatchInput`: a tensor that Triton adds to a ragged batch and that describes it."""

    kind: Literal[
        "BATCH_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT",
        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
        "BATCH_ITEM_SHAPE",
        "BATCH_ITEM_SHAPE_FLATTEN",
    ] = "BATCH_ELEMENT_COUNT"
    target_name: tuple[str, ...] = ()
    data_type: DataType
    source_input: tuple[str, ...] = ()


class BatchOutput(Message):
    """`BatchOutput`: how the output of a ragged batch is scattered to its requests; one entry for each output."""

    target_name: tuple[str, ...] = ()
    kind: Literal["BATCH_SCATTER_WITH_INPUT_SHAPE"] = "BATCH_SCATTER_WITH_INPUT_SHAPE"
    source_input: tuple[str, ...] = ()


class Latest(Message):
    """`ModelVersionPolicy.Latest`: only the newest versions."""

    num_versions: UInt32 = 0
    """0 stands for 1."""


class All(Message):
    """`ModelVersionPolicy.All`: every version."""


class Specific(Message):
    """`ModelVersionPolicy.Specific`: these versions and no others."""

    versions: tuple[Int64, ...] = ()


class VersionPolicy(Message):
    """`ModelVersionPolicy`: which versions of the folder are served; one of the three."""

    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if len(self.model_fields_set - {field for field in self.model_fields_set if getattr(self, field) is None}) != 1:
            raise ValueError("expected exactly one of latest, all and specific")
        return self


class Graph(Message):
    """`ModelOptimizationPolicy.Graph`: ONNX Runtime's level: 0 all, -1 basic, 1 extended, 2 none."""

    level: Int32 = 0


class CudaPolicy(Message):
    """`ModelOptimizationPolicy.Cuda`: read by Triton's TensorRT backend."""

    graphs: bool = False
    busy_wait_events: bool = False
    output_copy_stream: bool = False


class Accelerator(Message):
    """`ExecutionAccelerators.Accelerator`: an execution provider of ONNX Runtime and its options."""

    name: str
    parameters: StringMap = Field(default_factory=dict)


class ExecutionAccelerators(Message):
    """`ModelOptimizationPolicy.ExecutionAccelerators`: `tensorrt` and `cuda` for GPUs, `openvino` for CPUs."""

    gpu_execution_accelerator: tuple[Accelerator, ...] = ()
    cpu_execution_accelerator: tuple[Accelerator, ...] = ()


class PinnedMemoryBuffer(Message):
    """`ModelOptimizationPolicy.PinnedMemoryBuffer`."""

    enable: bool = False


class OptimizationPolicy(Message):
    """`ModelOptimizationPolicy`."""

    graph: Graph | None = None
    priority: Literal["PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"] = "PRIORITY_DEFAULT"
    cuda: CudaPolicy | None = None
    execution_accelerators: ExecutionAccelerators | None = None
    input_pinned_memory: PinnedMemoryBuffer | None = None
    output_pinned_memory: PinnedMemoryBuffer | None = None
    gather_kernel_buffer_threshold: UInt32 = 0
    eager_batching: bool = False


class QueuePolicy(Message):
    """`ModelQueuePolicy`: how long a request may wait, and how many may."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_microseconds: UInt64 = 0
    """0: no timeout."""
    allow_timeout_override: bool = False
    max_queue_size: UInt32 = 0
    """0: no limit."""


class DynamicBatching(Message):
    """`ModelDynamicBatching`: requests of identical shape that wait at the same time run as one batch."""

    preferred_batch_size: tuple[Int32, ...] = ()
    """Helps TensorRT engines of several profiles only; Triton's documentation advises against it elsewhere."""
    max_queue_delay_microseconds: UInt64 = 0
    preserve_ordering: bool = False
    priority_levels: UInt64 = 0
    default_priority_level: UInt64 = 0
    default_queue_policy: QueuePolicy | None = None
    priority_queue_policy: Annotated[dict[UInt64, QueuePolicy], BeforeValidator(_sorted)] = Field(default_factory=dict)


class Step(Message):
    """`ModelEnsembling.Step`: one model of an ensemble; the maps go from the model's tensors to the ensemble's."""

    model_name: str
    model_version: Int64 = 0
    """-1: the newest that is served. 0 is the proto's default and no version."""
    input_map: StringMap = Field(default_factory=dict)
    output_map: StringMap = Field(default_factory=dict)
    model_namespace: str = ""


class Ensembling(Message):
    """`ModelEnsembling`: models run one after another inside the server."""

    step: tuple[Step, ...] = ()


class Resource(Message):
    """`ModelRateLimiter.Resource`: what an instance occupies while it runs."""

    name: str
    global_: bool = Field(default=False, alias="global")
    count: UInt32 = 0


class RateLimiter(Message):
    """`ModelRateLimiter`."""

    resources: tuple[Resource, ...] = ()
    priority: UInt32 = 0


class InstanceGroup(Message):
    """`ModelInstanceGroup`: how many copies of the model run, and on what."""

    name: str = ""
    kind: Literal["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"] = "KIND_AUTO"
    count: Int32 = 0
    """On each of `gpus`; 0 leaves it to Triton, which takes two on a CPU."""
    gpus: tuple[Int32, ...] = ()
    rate_limiter: RateLimiter | None = None
    passive: bool = False
    host_policy: str = ""


class WarmupInput(Message):
    """`ModelWarmup.Input`: an input's data, one of the three."""

    data_type: DataType
    dims: tuple[Int64, ...] = ()
    zero_data: bool | None = None
    random_data: bool | None = None
    input_data_file: str | None = None
    """A file of raw bytes in the model's folder `warmup`."""


class Warmup(Message):
    """`ModelWarmup`: a request that every instance runs before it is ready."""

    name: str
    batch_size: UInt32 = 0
    """So many requests of batch 1 run as one batch; 0 where the model does not batch."""
    inputs: Annotated[dict[str, WarmupInput], BeforeValidator(_sorted)] = Field(default_factory=dict)
    count: UInt32 = 0
    """0 stands for 1."""


class TransactionPolicy(Message):
    """`ModelTransactionPolicy`: decoupled models answer a request any number of times."""

    decoupled: bool = False


class ResponseCache(Message):
    """`ModelResponseCache`: needs the server's --cache-config too."""

    enable: bool = False


class ModelConfig(Message):
    """`ModelConfig`."""

    name: str
    platform: str = ""
    """`ensemble`; other models name a `backend`."""
    backend: str = ""
    max_batch_size: Int32 = 0
    version_policy: VersionPolicy | None = None
    """None: the newest version."""
    input: tuple[ModelInput, ...] = ()
    output: tuple[ModelOutput, ...] = ()
    batch_input: tuple[BatchInput, ...] = ()
    batch_output: tuple[BatchOutput, ...] = ()
    optimization: OptimizationPolicy | None = None
    dynamic_batching: DynamicBatching | None = None
    ensemble_scheduling: Ensembling | None = None
    instance_group: tuple[InstanceGroup, ...] = ()
    default_model_filename: str = ""
    parameters: StringMap = Field(default_factory=dict)
    model_warmup: tuple[Warmup, ...] = ()
    model_transaction_policy: TransactionPolicy | None = None
    response_cache: ResponseCache | None = None

    @model_validator(mode="after")
    def _one_scheduler(self) -> Self:
        if self.dynamic_batching and self.ensemble_scheduling:
            raise ValueError("expected at most one of dynamic_batching and ensemble_scheduling")
        return self


def validate(document: Any, where: str) -> ModelConfig:
    """Return the description that `document` (of YAML or JSON, with the proto's field names) holds.

    Raises:
        UsageError: an unknown field, or a value of a wrong kind; `where` and the field are named.
    """
    try:
        return ModelConfig.model_validate(document)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe_problem(error)}") from None


def describe_problem(error: ValidationError) -> str:
    """Return the first problem of a ValidationError as `field: what is wrong, found ...`."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field in model_config.proto, or none that is supported"
    if problem["type"] == "missing":
        return f"{field}: missing"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}, found {problem['input']!r}"


def to_document(config: ModelConfig) -> dict[str, Any]:
    """Return what is not at its default, as JSON would hold it."""
    document: dict[str, Any] = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return document


def to_message(config: ModelConfig) -> ModelConfigMessage:
    """Return the protobuf message for `config`, built without the template."""
    document = to_document(config)
    if config.parameters:
        document["parameters"] = {key: {"string_value": value} for key, value in config.parameters.items()}
    return json_format.ParseDict(document, ModelConfigMessage())


def from_message(message: ModelConfigMessage, where: str) -> ModelConfig:
    """Return the description of a message.

    Raises:
        UsageError: the message uses a part of the proto that descriptions leave out.
    """
    return validate(json_format.MessageToDict(message, preserving_proto_field_name=True), where)
