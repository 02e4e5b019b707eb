"""Rules that hold the configuration against the model's graph: names, types, dims, opset, IR version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tritonclient.grpc.model_config_pb2 import DataType

from tritonsmith.preflight.findings import Finding
from tritonsmith.preflight.model import Graph, Model, Target


def tensors(model: Model, _target: Target) -> Iterator[Finding]:
    """Inputs and outputs: those of the graph, with its types and dims."""
    for side, entries in (("input", model.config.input), ("output", model.config.output)):
        if not entries and not model.config.HasField("ensemble_scheduling"):
            fix = "give every tensor: what Triton completes by itself invents batching"
            yield model.error("tensors-missing", "none given", fix, side)
        for index, tensor in enumerate(entries):
            field = f"{side}[{index}]"
            if not tensor.dims or any(dim == 0 or dim < -1 for dim in tensor.dims):
                message = f"found {list(tensor.dims)} for {tensor.name}, expected numbers above 0, or -1"
                yield model.error("dims", message, "change them", f"{field}.dims")
    for version in _versions(model):
        graph = model.graphs[version]
        yield from _against_graph(model, "input", model.config.input, graph, version)
        yield from _against_graph(model, "output", model.config.output, graph, version)


def _versions(model: Model) -> list[int]:
    """Return the versions to look at; a model that is not in a repository yet has one graph."""
    return [version for version in model.graphs if version in model.served or not model.versions]


def _against_graph(model: Model, side: str, entries: Sequence[Any], graph: Graph, version: int) -> Iterator[Finding]:
    known = graph.tensors(side)
    which = f" (version {version})" if len(model.graphs) > 1 else ""
    for index, tensor in enumerate(entries):
        field = f"{side}[{index}]"
        spec = known.get(tensor.name)
        if spec is None:
            message = f"the graph{which} has no {side} {tensor.name}; it has {', '.join(sorted(known))}"
            yield model.error("unknown-tensor", message, "change the name", f"{field}.name")
            continue
        found = DataType.Name(tensor.data_type).removeprefix("TYPE_")
        if found != spec.data_type:
            message = f"found TYPE_{found} for {tensor.name}, the graph{which} has TYPE_{spec.data_type}"
            yield model.error("data-type", message, "change it", f"{field}.data_type")
        yield from _dims(model, tensor, spec.dims, field, which)
    named = {tensor.name for tensor in entries}
    for name in sorted(set(known) - named - graph.optional_inputs):
        if side == "input" and entries:
            yield model.error("missing-input", f"the graph{which} needs the input {name}", "add it", "input")
        elif side == "output" and entries:
            message = f"the graph's{which} output {name} is not listed, so no client can ask for it"
            yield model.warning("missing-output", message, "add it if it is wanted", "output")


def _dims(model: Model, tensor: Any, expected: tuple[int, ...], field: str, which: str) -> Iterator[Finding]:
    dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
    batched = model.config.max_batch_size > 0
    if batched and expected and expected[0] != -1:
        message = f"{tensor.name}: the graph's{which} batch dimension is fixed at {expected[0]}"
        yield model.error("fixed-batch", message, "use max_batch_size 0, or export a dynamic one", "max_batch_size")
        return
    if batched:
        dims = [-1, *dims]
    if len(dims) != len(expected):
        note = "the batch dimension comes on top" if batched else "with max_batch_size 0 the batch dimension is in dims"
        message = (
            f"{list(tensor.dims)} gives {tensor.name} {len(dims)} dimensions ({note}), the graph{which} has {len(expected)}"
        )
        yield model.error("rank", message, "change them", f"{field}.dims")
    elif any(have not in (-1, want) for have, want in zip(expected, dims, strict=True)):
        message = f"found {list(tensor.dims)} for {tensor.name}, the graph{which} has {list(expected)}"
        yield model.error("dims", message, "change them", f"{field}.dims")


def onnx_versions(model: Model, target: Target) -> Iterator[Finding]:
    """Opset and IR version: what the release's ONNX Runtime reads."""
    release = target.release
    for version in _versions(model):
        graph, file = model.graphs[version], f"{version}/model.onnx"
        for rule, name, found, most in (
            ("opset", "opset", graph.opset, release.max_opset),
            ("ir-version", "IR version", graph.ir_version, release.max_ir_version),
        ):
            if found is not None and found > most:
                message = f"{name} {found}; ONNX Runtime {release.onnxruntime} of Triton {release.name} reads up to {most}"
                yield model.error(rule, message, f"export it with {name} {most}, or take a newer Triton", file=file)


RULES = (tensors, onnx_versions)
