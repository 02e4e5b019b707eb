"""From a graph and what the user wants to a complete configuration.

A preset is the start; options of their own names change it; tensors, warm-up requests, buckets and TensorRT's profiles are
derived from the graph and the lengths that are served; `--set` has the last word. What comes out has passed the preflight.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tritonsmith.artifact import TensorSpec
from tritonsmith.errors import UsageError
from tritonsmith.inputs import Feed
from tritonsmith.preflight.check import check_model
from tritonsmith.preflight.findings import Finding, errors_of
from tritonsmith.preflight.model import Graph, Model, Target
from tritonsmith.releases import EMBEDDED, Release, find_release
from tritonsmith.repository.model_config import ModelConfig, to_message, validate
from tritonsmith.repository.presets import DEFAULTS, Preset, load_preset
from tritonsmith.repository.settings import apply_settings

KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
_ANY_GPUS = 64
"""A build does not know the server's GPUs; this many let any index pass."""
_THREADS = {"openvino": "INFERENCE_NUM_THREADS"}
_OPENVINO = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "HINT_BF16": "YES"}
"""One inference at a time on all threads, and BF16 for what is not quantised where the processor has it."""

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ConfigOptions:
    """How a model shall be served; None leaves it to the preset."""

    device: str = "cpu"
    preset: str | None = None
    """A preset's name or file; None: `cpu` or `throughput`, by the device."""
    lengths: tuple[int, ...] | None = None
    """Tokens that are served: warmed up, covered by TensorRT's profiles, and the buckets."""
    warmup: bool | None = None
    max_batch_size: int | None = None
    instances: int | None = None
    dynamic_batching: bool | None = None
    max_queue_delay_microseconds: int | None = None
    num_versions: int | None = None
    intra_op_thread_count: int = 0
    """0: every core."""
    settings: tuple[str, ...] = ()
    """`key=value`, each a field of model_config.proto by its path."""

    @property
    def loaded_preset(self) -> Preset:
        """The preset itself.

        Raises:
            UsageError: an unknown device or preset, or a preset that is not for the device.
        """
        if self.device not in KINDS:
            raise UsageError(f"--device {self.device}: unknown; expected one of {', '.join(KINDS)}")
        name = self.preset or DEFAULTS[self.device]
        preset = load_preset(name)
        if self.device not in preset.devices:
            raise UsageError(f"--preset {name}: is for --device {' or '.join(preset.devices)}, found --device {self.device}")
        return preset


@dataclass(frozen=True)
class Described:
    """A configuration, and the files that its warm-up requests read."""

    config: ModelConfig
    warmup_files: Mapping[str, bytes]
    """By their names in the model's folder `warmup`."""
    findings: list[Finding] = field(default_factory=list)
    """What the preflight has to say that is no error."""


@dataclass(frozen=True)
class Subject:
    """The model that is described."""

    name: str
    backend: str
    graph: Graph
    max_length: int
    precision: str
    """What TensorRT is told to compute in."""
    feed: Callable[[int], Feed]
    """Makes a request of real text of a length in tokens."""


def check_config(options: ConfigOptions, backend: str) -> None:
    """Raise UsageError for what can be seen to be wrong before there is a graph."""
    message = to_message(_validated(options, _start(options, backend)))
    target = Target(find_release(EMBEDDED), _ANY_GPUS if options.device == "gpu" else 0)
    _raise_errors([finding for finding in check_model(Model("model", message), target) if finding.rule != "tensors-missing"])


def describe(options: ConfigOptions, subject: Subject, release: Release) -> Described:
    """Return the complete configuration of a model.

    Raises:
        UsageError: an option that cannot be right, or a configuration that Triton would refuse or answer wrongly with.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", subject.name):
        raise UsageError(f"--name {subject.name}: expected letters, digits, '_', '-' and '.', not starting with '-' or '.'")
    document = _start(options, subject.backend)
    _validated(options, document)
    document["name"] = subject.name
    batched = document.get("max_batch_size", 0) > 0
    for side, specs in (("input", subject.graph.inputs), ("output", subject.graph.outputs)):
        document.setdefault(side, [_tensor(spec, batched) for spec in specs])
    lengths = served_lengths(options, subject.max_length)
    if options.loaded_preset.bucketed:
        document.setdefault("parameters", {})["bucket_lengths"] = ",".join(map(str, lengths))
    _fill_in_tensorrt(document, subject, lengths)
    files = _add_warmup(options, document, subject, lengths)
    apply_settings(document, options.settings)
    config = _validated(options, document)
    target = Target(release, _ANY_GPUS if options.device == "gpu" else 0, tuple(lengths))
    findings = check_model(Model(subject.name, to_message(config), {0: subject.graph}), target)
    _raise_errors(findings)
    return Described(config, files, findings)


def served_lengths(options: ConfigOptions, max_length: int) -> list[int]:
    """Return the lengths that are served, in tokens and in order; a bucketed preset's end with the longest there is.

    Raises:
        UsageError: a length of the user's that the model does not take.
    """
    preset = options.loaded_preset
    beyond = [length for length in options.lengths or () if not 0 < length <= max_length]
    if beyond:
        raise UsageError(f"--lengths: {beyond[0]}: expected 1 to {max_length} tokens (--max-length)")
    lengths = {length for length in options.lengths or preset.lengths if length <= max_length}
    if preset.bucketed or not lengths:
        lengths.add(max_length)
    return sorted(lengths)


def _start(options: ConfigOptions, backend: str) -> Document:
    """Return what the preset and the options say, before anything is derived from the graph."""
    document: Document = copy.deepcopy(options.loaded_preset.config)
    document["backend"] = backend
    if options.max_batch_size is not None:
        document["max_batch_size"] = options.max_batch_size
    elif backend == "openvino" and options.preset is None:
        document["max_batch_size"] = 0
    for group in document.get("instance_group", []):
        group.setdefault("kind", KINDS[options.device])
        if options.instances is not None:
            group["count"] = options.instances
    _set_batching(options, document)
    parameters = document.setdefault("parameters", {})
    for key, value in (_OPENVINO if backend == "openvino" else {}).items():
        parameters.setdefault(key, value)
    if options.intra_op_thread_count:
        parameters[_THREADS.get(backend, "intra_op_thread_count")] = str(options.intra_op_thread_count)
    apply_settings(document, options.settings)
    if options.num_versions is not None or not document.get("version_policy"):
        document["version_policy"] = {"latest": {"num_versions": options.num_versions or 1}}
    return document


def _set_batching(options: ConfigOptions, document: Document) -> None:
    if options.dynamic_batching is False or (options.dynamic_batching is None and not document.get("max_batch_size")):
        document.pop("dynamic_batching", None)
    elif options.dynamic_batching:
        document.setdefault("dynamic_batching", {})
    if options.max_queue_delay_microseconds is not None:
        if "dynamic_batching" not in document:
            raise UsageError(f"--max-queue-delay {options.max_queue_delay_microseconds}: needs --dynamic-batching")
        document["dynamic_batching"]["max_queue_delay_microseconds"] = options.max_queue_delay_microseconds


def _validated(options: ConfigOptions, document: Document) -> ModelConfig:
    sources = [f"--preset {options.preset or DEFAULTS[options.device]}", *(f"--set {setting}" for setting in options.settings)]
    where = " with ".join(sources)
    return validate({"name": "model", **document}, where)


def _tensor(spec: TensorSpec, batched: bool) -> Document:
    """Describe one tensor: with `max_batch_size` > 0 the batch dimension is left out of `dims`; with 0 it is in."""
    return {"name": spec.name, "data_type": f"TYPE_{spec.data_type}", "dims": list(spec.dims[1:] if batched else spec.dims)}


def _fill_in_tensorrt(document: Document, subject: Subject, lengths: Sequence[int]) -> None:
    """Give TensorRT one profile from a single token to the largest batch, best at the middle length, and the precision."""
    accelerators = document.get("optimization", {}).get("execution_accelerators", {}).get("gpu_execution_accelerator", [])
    batch = max(document.get("max_batch_size", 0), 1)
    profiles = {
        "trt_profile_min_shapes": (1, 1),
        "trt_profile_opt_shapes": (batch, lengths[len(lengths) // 2]),
        "trt_profile_max_shapes": (batch, subject.max_length),
    }
    for accelerator in accelerators:
        if accelerator.get("name") != "tensorrt":
            continue
        parameters = accelerator.setdefault("parameters", {})
        parameters.setdefault("precision_mode", subject.precision.upper())
        for key, (size, length) in profiles.items():
            parameters.setdefault(key, ",".join(f"{spec.name}:{size}x{length}" for spec in subject.graph.inputs))


def _add_warmup(options: ConfigOptions, document: Document, subject: Subject, lengths: Sequence[int]) -> dict[str, bytes]:
    """Add a request of real tokens for every length and batch size that is served; return the files that hold them."""
    wanted = options.loaded_preset.warmup if options.warmup is None else options.warmup
    if not wanted or "model_warmup" in document:
        return {}
    size = document.get("max_batch_size", 0)
    batches = sorted({1, size} if size and "dynamic_batching" in document else {min(size, 1)})
    files: dict[str, bytes] = {}
    entries = document["model_warmup"] = []
    for length in lengths:
        inputs = {}
        for name, array in subject.feed(length).items():
            content = array.tobytes()
            # Named by its content: files that an older configuration reads are never written over.
            file = f"{name}-{length}-{hashlib.sha256(content).hexdigest()[:8]}"
            files[file] = content
            dims = array.shape[1:] if size else array.shape
            data_type = next(spec.data_type for spec in subject.graph.inputs if spec.name == name)
            inputs[name] = {"data_type": f"TYPE_{data_type}", "dims": list(dims), "input_data_file": file}
        entries += [
            {"name": f"{length} tokens, batch {batch or 1}", "batch_size": batch, "inputs": inputs} for batch in batches
        ]
    return files


def _raise_errors(findings: Sequence[Finding]) -> None:
    errors = errors_of(findings)
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise UsageError(f"{errors[0].field or errors[0].file}: {errors[0].message}; {errors[0].fix}{more}")
