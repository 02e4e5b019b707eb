"""Rules on the files of a repository: folders, versions, checksums, what lies there and should not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tritonsmith.artifact import MODEL_FILES
from tritonsmith.preflight.findings import Finding, Severity
from tritonsmith.preflight.model import Model, Target
from tritonsmith.repository.layout import MANIFEST_FILE, changed_files

_TEXT_INPUT = "input_ids"


def names(model: Model, _target: Target) -> Iterator[Finding]:
    """The config's name is the folder's, and the backend is said."""
    if model.config.name not in ("", model.name):
        yield model.error("name", f"found {model.config.name}, the folder is {model.name}", "make them the same", "name")
    if not model.backend:
        message = "neither backend nor platform is given: Triton guesses by the name of the file"
        yield model.warning("backend", message, "set it, such as onnxruntime", "backend")
    elif model.config.platform and not model.config.backend and model.config.platform not in ("ensemble",):
        message = f"platform {model.config.platform} is the old way"
        yield model.warning("platform", message, f'use backend: "{model.backend}"', "platform")


def versions(model: Model, _target: Target) -> Iterator[Finding]:
    """Version folders: numbers from 1, those of the policy there, each with its model file."""
    if model.folder is None:
        return
    for entry in sorted(model.folder.iterdir()):
        number = entry.name.isdecimal() and entry.is_dir()
        if number and (entry.name.startswith("0")):
            message = "not a version to Triton" if entry.name != "0" else "version 0, which requests cannot ask for"
            yield model.error("version-name", message, "use numbers from 1 without leading zeros", file=entry.name)
    if not model.served:
        message = f"the version policy serves none of {', '.join(map(str, model.versions)) or 'no version folders'}"
        yield model.error("no-version", message, "publish one, or change the policy", "version_policy")
    missing = [version for version in model.config.version_policy.specific.versions if version not in model.versions]
    if missing and model.served:
        message = f"version {missing[0]} is not there; Triton serves the others and says nothing"
        yield model.warning("version-missing", message, "change the policy", "version_policy.specific")
    for version in model.served:
        yield from _model_file(model, version)


def _model_file(model: Model, version: int) -> Iterator[Finding]:
    assert model.folder is not None
    folder = (model.folder / str(version)).resolve()
    name = model.config.default_model_filename or {**MODEL_FILES, "python": "model.py"}.get(model.backend, "")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        message = f"{name} leads out of the version folder"
        yield model.error("path", message, "name a file inside it", "default_model_filename")
    elif name and not path.exists():
        yield model.error("model-file", f"version {version} has no {name}", "add it, or remove the version", file=str(version))
    elif name.endswith(".onnx") and version not in model.graphs:
        message = "not an ONNX model that can be read"
        yield model.error("model-file", message, "write it again", file=f"{version}/{name}")
    elif version in model.graphs:
        yield from _data_files(model, folder, version)


def _data_files(model: Model, folder: Path, version: int) -> Iterator[Finding]:
    for name in sorted(model.graphs[version].data_files):
        if not (folder / name).resolve().is_relative_to(folder):
            message = f"its weights are said to lie in {name}, outside the version folder"
            yield model.error("path", message, "save it with its weights beside it", file=f"{version}/model.onnx")
        elif not (folder / name).is_file():
            message = f"its weights are said to lie in {name}, which is not there"
            yield model.error("model-file", message, "add it", file=f"{version}/model.onnx")


def integrity(model: Model, _target: Target) -> Iterator[Finding]:
    """Published versions never change: every file is there with the checksum of the manifest, and no other."""
    if model.folder is None:
        return
    for version in model.versions:
        manifest = model.manifests.get(version)
        folder = model.folder / str(version)
        if manifest is None:
            continue
        for name in changed_files(folder, manifest):
            there = (folder / name).is_file()
            message = "changed since it was published" if there else "missing, though the version was published with it"
            yield model.error("checksum", message, "restore it, or publish the model again", file=f"{version}/{name}")
        known = {*manifest.get("files", {}), MANIFEST_FILE}
        strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in known)
        if strangers:
            message = "was not published with this version"
            yield model.warning("stranger", message, "remove it", file=f"{version}/{strangers[0]}")


def tokenizer(model: Model, _target: Target) -> Iterator[Finding]:
    """A text model's tokenizer lies beside it: clients of another one send ids that mean something else."""
    if model.folder is None or model.backend not in MODEL_FILES:
        return
    if not any(tensor.name == _TEXT_INPUT for tensor in model.config.input):
        return
    for version in model.served:
        if not (model.folder / str(version) / "tokenizer.json").is_file():
            message = "no tokenizer.json: clients have to know which tokenizer the ids are of"
            yield model.warning("tokenizer", message, "put it beside the model", file=str(version))


def stray(repository: Path) -> Iterator[Finding]:
    """Find what lies in the repository itself and is no model."""
    for entry in sorted(repository.iterdir()):
        if entry.is_symlink() and not entry.resolve().is_relative_to(repository.resolve()):
            message = "a link out of the repository"
            yield Finding("path", Severity.WARNING, "", entry.name, "", message, "copy what it leads to")
        if entry.is_dir() and entry.name.startswith("."):
            message = "Triton takes hidden folders for models too"
            yield Finding("stray", Severity.WARNING, "", entry.name, "", message, "move it elsewhere")
        elif entry.is_dir() and not os.access(entry, os.R_OK | os.X_OK):
            yield Finding("stray", Severity.ERROR, "", entry.name, "", "cannot be read", "change its permissions")


RULES = (names, versions, integrity, tokenizer)
