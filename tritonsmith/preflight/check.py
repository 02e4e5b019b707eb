"""The preflight: every rule on every model of a repository, or on one that is about to be published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

from tritonsmith.artifact import read_artifact, read_spec
from tritonsmith.errors import RepositoryError, StageError
from tritonsmith.preflight import accelerators, files, scheduling, tensors, warmup
from tritonsmith.preflight.ensembles import ensemble
from tritonsmith.preflight.findings import Finding, Severity
from tritonsmith.preflight.model import Graph, Model, Target
from tritonsmith.repository.layout import CONFIG_FILE, ModelFolder, model_folders

_RULES = (*files.RULES, *tensors.RULES, *scheduling.RULES, *accelerators.RULES, *warmup.RULES)


def check_repository(repository: Path, target: Target) -> list[Finding]:
    """Return what is found in a repository, whoever wrote it.

    Raises:
        RepositoryError: there is no such folder, or it cannot be read.
    """
    if not repository.is_dir():
        raise RepositoryError(f"--repository {repository}: no such folder")
    try:
        return list(_check(repository, target))
    except OSError as error:
        raise RepositoryError(f"{error.filename or repository}: cannot be read: {error.strerror or error}") from error


def check_model(model: Model, target: Target) -> list[Finding]:
    """Return what is found in one model, without looking at the others of its repository."""
    return [finding for rule in _RULES for finding in rule(model, target)]


def _check(repository: Path, target: Target) -> Iterator[Finding]:
    if not target.release.in_table:
        message = (
            f"Triton {target.release.name} is not in the table of releases; held to ONNX Runtime {target.release.onnxruntime}"
        )
        yield Finding("release", Severity.NOTE, "", ".", "", message, "an error of opset or ir-version may be none there")
    yield from files.stray(repository)
    models = {}
    for folder in model_folders(repository):
        if folder.path.name.startswith("."):
            continue
        found, model = _read_model(folder)
        yield from found
        if model:
            models[model.name] = model
    for model in models.values():
        yield from check_model(model, target)
        yield from ensemble(model, models)


def _read_model(folder: ModelFolder) -> tuple[list[Finding], Model | None]:
    name, file = folder.path.name, f"{folder.path.name}/{CONFIG_FILE}"
    if not folder.config.is_file():
        message = "missing: a server that completes nothing by itself refuses the folder"
        return [Finding("config-missing", Severity.ERROR, name, file, "", message, "write one, or remove the folder")], None
    config, found = _read_config(folder.config.read_text(encoding="utf-8", errors="replace"), name, file)
    if config is None:
        return found, None
    graphs, manifests = {}, {}
    for version in folder.versions:
        try:
            manifest = folder.manifest(version)
        except RepositoryError as error:
            message = f"cannot be read: {error.__cause__}"
            found.append(
                Finding("manifest", Severity.ERROR, name, f"{name}/{version}/manifest.json", "", message, "restore it")
            )
            manifest = None
        if manifest is not None:
            manifests[version] = manifest
        graph = read_graph(folder.version(version), config)
        if graph is not None:
            graphs[version] = graph
    return found, Model(name, config, graphs, manifests, tuple(folder.versions), folder.path)


def _read_config(text: str, name: str, file: str) -> tuple[ModelConfigMessage | None, list[Finding]]:
    """Parse a config.pbtxt; an unknown field is told, and the rest is looked at all the same."""
    try:
        return text_format.Parse(text, ModelConfigMessage()), []
    except text_format.ParseError as error:
        message, line = re.sub(r"^\d+:\d+ : ", "", " ".join(str(error).split())), error.GetLine()
    found = [Finding("syntax", Severity.ERROR, name, file, "", message, "see model_config.proto", line)]
    try:
        return text_format.Parse(text, ModelConfigMessage(), allow_unknown_field=True), found
    except text_format.ParseError:
        return None, found


def read_graph(version: Path, config: ModelConfigMessage) -> Graph | None:
    """Return what the model's file in a version folder tells of itself, None if it has none that can be read."""
    if config.backend == "openvino":
        try:
            artifact = read_artifact(version)
        except StageError:
            return None
        return Graph(artifact.inputs, artifact.outputs)
    path = (version / (config.default_model_filename or "model.onnx")).resolve()
    if path.suffix != ".onnx" or not path.is_relative_to(version.resolve()) or not path.is_file():
        return None
    return read_onnx(path)


def read_onnx(path: Path) -> Graph | None:
    """Return what an ONNX file tells of itself, None if it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return None
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=None)
    if opset is None:
        return None
    defaults = frozenset(tensor.name for tensor in model.graph.initializer)
    outside = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"}
    operators = frozenset(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node)
    return Graph(
        tuple(read_spec(value) for value in model.graph.input),
        tuple(read_spec(value) for value in model.graph.output),
        defaults,
        opset,
        model.ir_version,
        operators,
        frozenset(outside),
    )
