"""Rules on ensembles: every step a model of the repository, every tensor made once before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tritonclient.grpc.model_config_pb2 import DataType

from tritonsmith.preflight.findings import Finding
from tritonsmith.preflight.model import Model


def ensemble(model: Model, models: Mapping[str, Model]) -> Iterator[Finding]:
    """Check the steps of an ensemble against the other models of its repository."""
    if not model.config.HasField("ensemble_scheduling"):
        return
    types = {tensor.name: tensor.data_type for tensor in model.config.input}
    made = set(types)
    steps = list(model.config.ensemble_scheduling.step)
    for index, step in enumerate(steps):
        where = f"ensemble_scheduling.step[{index}]"
        for tensor in step.output_map.values():
            if tensor in made:
                yield model.error("ensemble-tensor", f"{tensor} is made twice", "give it another name", f"{where}.output_map")
            made.add(tensor)
        yield from _step(model, models.get(step.model_name), step, where, types)
    used = {tensor for step in steps for tensor in step.input_map.values()}
    yield from _ends(model, made, used)


def _ends(model: Model, made: set[str], used: set[str]) -> Iterator[Finding]:
    for tensor in sorted(used - made):
        message = f"{tensor} is used, but neither an input of the ensemble nor made by a step"
        yield model.error("ensemble-tensor", message, "map it", "ensemble_scheduling")
    for output in model.config.output:
        if output.name not in made:
            yield model.error("ensemble-tensor", f"no step makes the output {output.name}", "map it", "ensemble_scheduling")
    for tensor in model.config.input:
        if tensor.name not in used:
            yield model.error("ensemble-tensor", f"no step uses the input {tensor.name}", "map it or remove it", "input")


def _step(model: Model, target: Model | None, step: Any, where: str, types: dict[str, int]) -> Iterator[Finding]:
    if target is None:
        message = f"the repository has no model {step.model_name}"
        yield model.error("ensemble-model", message, "add it or change the name", f"{where}.model_name")
        return
    if step.model_version > 0 and step.model_version not in target.served:
        message = f"version {step.model_version} of {step.model_name} is not served"
        yield model.error("ensemble-version", message, "use -1, the newest", f"{where}.model_version")
    if model.config.max_batch_size > target.config.max_batch_size:
        message = f"{model.config.max_batch_size}, but {step.model_name} has {target.config.max_batch_size}"
        yield model.error("ensemble-batch", message, "lower it", "max_batch_size")
    for side, entries, mapping in (
        ("input", target.config.input, step.input_map),
        ("output", target.config.output, step.output_map),
    ):
        yield from _mapping(model, step.model_name, side, entries, mapping, f"{where}.{side}_map", types)


def _mapping(
    model: Model, name: str, side: str, entries: Sequence[Any], mapping: Mapping[str, str], where: str, types: dict[str, int]
) -> Iterator[Finding]:
    known = {entry.name: entry for entry in entries}
    for key in sorted(mapping):
        if key not in known:
            yield model.error("ensemble-map", f"{name} has no {side} {key}", f"known are {', '.join(sorted(known))}", where)
            continue
        found, expected = types.setdefault(mapping[key], known[key].data_type), known[key].data_type
        if found != expected:
            message = f"{mapping[key]} is {DataType.Name(found)}, {side} {key} of {name} {DataType.Name(expected)}"
            yield model.error("ensemble-type", message, "change one of them", where)
    missing = sorted(key for key, entry in known.items() if key not in mapping and side == "input" and not entry.optional)
    if missing:
        yield model.error("ensemble-map", f"the input {missing[0]} of {name} is not mapped", "map it", where)
