"""Rules on ONNX Runtime's execution providers: TensorRT, CUDA, OpenVINO, and its optimisation level."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tritonsmith.preflight.findings import Finding
from tritonsmith.preflight.model import Model, Target
from tritonsmith.preflight.parameters import ACCELERATORS, PRECISION_MODES

_WHERE = "optimization.execution_accelerators"
_PROFILES = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
_LEVELS = (-1, 0, 1, 2)

Shapes = dict[str, tuple[int, ...]]


def graph_level(model: Model, _target: Target) -> Iterator[Finding]:
    """The optimisation level: one that ONNX Runtime's backend knows."""
    level = model.config.optimization.graph.level
    if model.backend == "onnxruntime" and level not in _LEVELS:
        message = f"found {level}, expected 0 (all), -1 (basic), 1 (extended) or 2 (none)"
        yield model.error("graph-level", message, "change it", "optimization.graph.level")


def accelerators(model: Model, target: Target) -> Iterator[Finding]:
    """Execution providers: known ones, with known options, where the instances run."""
    chosen = model.config.optimization.execution_accelerators
    for side, known in ACCELERATORS.items():
        for accelerator in getattr(chosen, side):
            where = f"{_WHERE}.{side}[{accelerator.name}]"
            if accelerator.name not in known:
                yield model.error("accelerator", "unknown to the backend", f"expected {' or '.join(known)}", where)
                continue
            yield from _options(model, accelerator, known[accelerator.name], where)
            if side == "gpu_execution_accelerator" and not model.on_gpu(target):
                yield model.warning("accelerator-unused", "no instance runs on a GPU, so it is ignored", "use KIND_GPU", where)
            if accelerator.name == "tensorrt":
                yield from _tensorrt(model, target, accelerator, where)


def _options(model: Model, accelerator: Any, known: frozenset[str], where: str) -> Iterator[Finding]:
    for key in sorted(accelerator.parameters):
        if key not in known and known:
            near = difflib.get_close_matches(key, known, 1)
            fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            yield model.error("accelerator-option", f"unknown option {key}, which the backend refuses", fix, where)


def _tensorrt(model: Model, target: Target, accelerator: Any, where: str) -> Iterator[Finding]:
    options = accelerator.parameters
    if options.get("precision_mode", "FP32") not in PRECISION_MODES:
        message = f"found {options['precision_mode']}, expected {', '.join(PRECISION_MODES)}"
        yield model.error("precision-mode", message, "change it", f"{where}.precision_mode")
    if options.get("trt_engine_cache_enable", "0").lower() not in ("1", "true"):
        message = "no engine cache: every start builds the engines anew, which takes minutes"
        yield model.warning("engine-cache", message, "set trt_engine_cache_enable and trt_engine_cache_path", where)
    contrib = sorted(
        {operator for graph in model.graphs.values() for operator in graph.operators if operator.startswith("com.microsoft.")}
    )
    if contrib:
        message = f"the graph holds {contrib[0]}, which TensorRT cannot run: those parts fall back to CUDA"
        yield model.warning("tensorrt-operators", message, "publish the raw export (recipe without fuse and fp16)", where)
    yield from _profiles(model, target, options, where)


def _profiles(model: Model, target: Target, options: Mapping[str, str], where: str) -> Iterator[Finding]:
    given = [key for key in _PROFILES if options.get(key)]
    if not given:
        message = "no profiles: every new length rebuilds the engine, which takes minutes"
        yield model.warning("tensorrt-profiles", message, f"set {', '.join(_PROFILES)}", where)
        return
    if len(given) < len(_PROFILES):
        missing = next(key for key in _PROFILES if key not in given)
        yield model.error("tensorrt-profiles", f"{missing} is missing; they go together", "set it", where)
        return
    shapes: list[Shapes] = []
    for key in _PROFILES:
        try:
            shapes.append(parse_shapes(options[key]))
        except ValueError as error:
            yield model.error("tensorrt-profiles", str(error), "such as input_ids:1x8,attention_mask:1x8", f"{where}.{key}")
    if len(shapes) == len(_PROFILES):
        yield from _coverage(model, target, shapes, where)


def _coverage(model: Model, target: Target, shapes: Sequence[Shapes], where: str) -> Iterator[Finding]:
    least, best, most = shapes
    lengths = target.lengths or ((model.max_length,) if model.max_length else ())
    for tensor in model.config.input:
        name = tensor.name
        if -1 not in tensor.dims and not model.config.max_batch_size:
            continue
        if not all(name in shapes for shapes in (least, best, most)):
            yield model.error("tensorrt-profiles", f"no profile for the input {name}", "add it to all three", where)
            continue
        low, opt, high = least[name], best[name], most[name]
        ordered = len(low) == len(opt) == len(high) and all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True))
        if not ordered:
            yield model.error("tensorrt-profiles", f"{name}: expected min <= opt <= max", "change them", where)
            continue
        if model.config.max_batch_size > high[0]:
            message = f"{name}: ends at batch {high[0]}, max_batch_size is {model.config.max_batch_size}"
            yield model.error("tensorrt-coverage", message, "raise trt_profile_max_shapes", where)
        outside = [length for length in lengths if not low[-1] <= length <= high[-1]]
        if outside:
            message = f"{name}: covers {low[-1]} to {high[-1]} tokens, {outside[0]} is served and would rebuild the engine"
            yield model.error("tensorrt-coverage", message, "widen the profiles", where)


def parse_shapes(text: str) -> Shapes:
    """Return the shapes of `name:1x2,other:3x4`.

    Raises:
        ValueError: another form.
    """
    shapes: Shapes = {}
    for part in text.split(","):
        name, colon, dims = part.strip().rpartition(":")
        sizes = dims.split("x")
        if not (colon and name) or not all(size.isdigit() for size in sizes):
            raise ValueError(f"found {part.strip()!r}, expected name:1x2")
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


RULES = (graph_level, accelerators)
