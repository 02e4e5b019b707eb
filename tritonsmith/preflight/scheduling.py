"""Rules on what a configuration alone tells: batching, instances, the cache, the version policy, parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from tritonsmith.preflight.findings import Finding
from tritonsmith.preflight.model import Model, Target
from tritonsmith.preflight.parameters import BACKEND, DEPRECATED_CUDA, OWN, WHOLE_NUMBERS

_CPU, _GPU = ModelInstanceGroup.KIND_CPU, ModelInstanceGroup.KIND_GPU


def batch_size(model: Model, _target: Target) -> Iterator[Finding]:
    """max_batch_size: not negative; 0 for OpenVINO, whose backend pads or refuses smaller batches."""
    size = model.config.max_batch_size
    if size < 0:
        yield model.error("max-batch-size", f"found {size}", "use 0 (no batching) or more", "max_batch_size")
    if model.backend == "openvino" and size > 0:
        message = f"found {size}, but Triton's openvino backend pads or refuses smaller batches"
        yield model.error("openvino-batch", message, "use 0, where a request carries its batch in its dims", "max_batch_size")


def dynamic_batching(model: Model, target: Target) -> Iterator[Finding]:
    """The dynamic batcher: only with a batch dimension, sizes and priorities within their limits."""
    if not model.config.HasField("dynamic_batching"):
        return
    batcher, size = model.config.dynamic_batching, model.config.max_batch_size
    if size == 0:
        message = "asked for with max_batch_size 0: Triton accepts it and never batches"
        yield model.error(
            "batching-without-batch", message, "set max_batch_size, or leave dynamic_batching out", "dynamic_batching"
        )
        return
    field = "dynamic_batching.preferred_batch_size"
    for preferred in batcher.preferred_batch_size:
        if not 0 < preferred <= size:
            message = f"found {preferred}, expected 1 to max_batch_size ({size})"
            yield model.error("preferred-batch-size", message, "change it or leave it out", field)
    if batcher.preferred_batch_size and not _has_tensorrt(model):
        message = "helps TensorRT engines with several profiles only; elsewhere batches wait for nothing"
        yield model.warning("preferred-batch-size-unused", message, "leave it out", field)
    yield from _priorities(model)
    if not target.gpus:
        message = "on a CPU, batching costs latency and brings nothing to a transformer"
        yield model.warning("batching-on-cpu", message, "leave it out, and send exact lengths", "dynamic_batching")
    if any("DynamicQuantizeLinear" in graph.operators for graph in model.graphs.values()):
        message = "dynamic INT8 takes one scale over the batch, so answers depend on the batch mates"
        yield model.warning("batch-variant", message, "leave it out, or quantise statically", "dynamic_batching")


def _priorities(model: Model) -> Iterator[Finding]:
    batcher = model.config.dynamic_batching
    levels, default = batcher.priority_levels, batcher.default_priority_level
    field = "dynamic_batching.default_priority_level"
    if levels and not 0 < default <= levels:
        yield model.error("priority", f"found {default}, expected 1 to priority_levels ({levels})", "set it", field)
    for level in batcher.priority_queue_policy:
        if not 0 < level <= levels:
            message = f"a policy for level {level}, but priority_levels is {levels}"
            yield model.error("priority", message, "change one of them", "dynamic_batching.priority_queue_policy")


def _has_tensorrt(model: Model) -> bool:
    accelerators = model.config.optimization.execution_accelerators.gpu_execution_accelerator
    return any(accelerator.name == "tensorrt" for accelerator in accelerators)


def instances(model: Model, target: Target) -> Iterator[Finding]:
    """Instance groups: said, counted, and on devices that are there."""
    if model.config.HasField("ensemble_scheduling"):
        return
    if not model.config.instance_group:
        message = "missing: Triton runs two instances on a CPU, each with its own copy of the model"
        yield model.warning("instance-group", message, "say kind and count", "instance_group")
    for index, group in enumerate(model.config.instance_group):
        field = f"instance_group[{index}]"
        if group.count < 1:
            message = f"found {group.count or 'none'}: Triton runs two on a CPU, each with its own copy of the model"
            yield model.warning("instance-count", message, "say how many", f"{field}.count")
        yield from _devices(model, target, group, field)


def _devices(model: Model, target: Target, group: ModelInstanceGroup, field: str) -> Iterator[Finding]:
    if group.kind == _GPU and not target.gpus:
        yield model.error(
            "no-gpu", "KIND_GPU, but the server has no GPU", "use KIND_CPU (build with --device cpu)", f"{field}.kind"
        )
    elif group.kind == _CPU and target.gpus:
        message = f"KIND_CPU, though the server has {target.gpus} GPU{'s' if target.gpus > 1 else ''}"
        yield model.warning(
            "gpu-unused", message, "use KIND_GPU if it shall run there (build with --device gpu)", f"{field}.kind"
        )
    if group.kind == _CPU and group.gpus:
        yield model.error("cpu-with-gpus", "names GPUs for KIND_CPU", "leave gpus out or use KIND_GPU", f"{field}.gpus")
    beyond = [gpu for gpu in group.gpus if gpu < 0 or gpu >= target.gpus]
    if group.kind != _CPU and target.gpus and beyond:
        message = f"names GPU {beyond[0]}, but the server has {target.gpus} (from 0)"
        yield model.error("gpu-index", message, "change it", f"{field}.gpus")


def response_cache(model: Model, _target: Target) -> Iterator[Finding]:
    """The response cache: needs a flag of the server's, and one response a request."""
    if not model.config.response_cache.enable:
        return
    if model.config.model_transaction_policy.decoupled:
        message = "a decoupled model has no single response to keep"
        yield model.error("cache-decoupled", message, "leave one of them out", "response_cache.enable")
    message = "works only if the server is started with --cache-config; otherwise nothing is cached, and nothing says so"
    yield model.warning("cache-flag", message, "tools/serve.py adds the flag; another starter must", "response_cache.enable")


def server_flags(model: Model, _target: Target) -> Iterator[Finding]:
    """Rate limits and host policies: without their flags the server ignores them."""
    for index, group in enumerate(model.config.instance_group):
        field = f"instance_group[{index}]"
        if group.HasField("rate_limiter"):
            message = "ignored unless the server is started with --rate-limit=execution_count"
            yield model.warning("rate-limit-flag", message, "tools/serve.py adds the flag; another starter must", field)
        if group.host_policy:
            message = f"{group.host_policy} means nothing unless the server is started with --host-policy for it"
            yield model.warning("host-policy-flag", message, "start the server with it, or leave it out", field)


def ragged(model: Model, _target: Target) -> Iterator[Finding]:
    """Ragged batches: every output needs its own entry that scatters it, or answers come in wrong shapes."""
    if not any(tensor.allow_ragged_batch for tensor in model.config.input):
        return
    scattered = []
    for index, entry in enumerate(model.config.batch_output):
        scattered += list(entry.target_name)
        if len(entry.target_name) > 1:
            message = "names several outputs: only the first is scattered rightly"
            yield model.error("ragged-output", message, "write one entry for each output", f"batch_output[{index}].target_name")
    for output in model.config.output:
        if output.name not in scattered:
            message = f"no entry scatters {output.name}, so its shape is the whole batch's"
            yield model.error("ragged-output", message, "add BATCH_SCATTER_WITH_INPUT_SHAPE for it", "batch_output")


def parameters(model: Model, _target: Target) -> Iterator[Finding]:
    """Parameters: keys that the backend reads, with values of their kind."""
    known = BACKEND.get(model.backend)
    if known is None:
        return
    for key in sorted(model.config.parameters):
        value, field = model.config.parameters[key].string_value, f"parameters[{key}]"
        if key in DEPRECATED_CUDA and model.backend == "onnxruntime":
            message = "deprecated at this place"
            fix = 'move it to gpu_execution_accelerator { name: "cuda" }'
            yield model.warning("deprecated-parameter", message, fix, field)
        elif key not in known | OWN:
            near = difflib.get_close_matches(key, known, 1)
            fix = f"did you mean {near[0]}?" if near else f"the backend {model.backend} reads {', '.join(sorted(known))}"
            yield model.warning("unknown-parameter", "not read by the backend, which ignores it", fix, field)
        elif key in WHOLE_NUMBERS and not value.isdigit():
            yield model.error("parameter-value", f"found {value!r}, expected a whole number", "change it", field)
        elif key == "execution_mode" and value not in ("0", "1"):
            message = f"found {value!r}, expected 0 (sequential) or 1 (parallel)"
            yield model.error("parameter-value", message, "change it", field)
    yield from _buckets(model)


def _buckets(model: Model) -> Iterator[Finding]:
    text = model.config.parameters["bucket_lengths"].string_value if "bucket_lengths" in model.config.parameters else "1"
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        message = f"found {text!r}, expected lengths separated by commas"
        yield model.error("parameter-value", message, "such as 64,128,256", "parameters[bucket_lengths]")


RULES = (batch_size, dynamic_batching, instances, response_cache, server_flags, ragged, parameters)
