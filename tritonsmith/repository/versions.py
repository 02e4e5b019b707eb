"""The versions of a model: what each was made from, which are served, and how to move that without a restart.

What is served is the `version_policy` of config.pbtxt alone; version folders never change. A server in poll mode sees a new
policy by itself, one in explicit mode is asked to load the model again; Triton goes on serving the old versions until the new
ones are loaded.
"""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.errors import RepositoryError, UsageError
from tritonsmith.repository.layout import CONFIG_FILE, ModelFolder, changed_files, served_versions
from tritonsmith.repository.model_config import Specific, VersionPolicy, from_message
from tritonsmith.repository.publish import cannot_write, check_fits, locked, replace_config, staging, sync
from tritonsmith.repository.rendering import parse, render

_TOLD = (
    "source",
    "task",
    "model_type",
    "precision",
    "backend",
    "recipe",
    "device",
    "max_length",
    "labels",
    "onnx",
    "calibration",
)
"""What a difference of two versions tells of their manifests, as it is."""


@dataclass(frozen=True)
class Version:
    """One version as its manifest tells it; a version that another tool made has none."""

    number: int
    served: bool
    manifest: dict[str, Any] | None
    changed_files: list[str]
    """Those that are not as they were published."""

    @property
    def size_bytes(self) -> int | None:
        """Of the model."""
        return self.manifest["stages"][-1]["size_bytes"] if self.manifest and self.manifest.get("stages") else None

    @property
    def metric(self) -> dict[str, Any] | None:
        """The task's metric, where the build was given a dataset."""
        return self.manifest["stages"][-1].get("metric") if self.manifest and self.manifest.get("stages") else None


def find_model(repository: Path, name: str) -> ModelFolder:
    """Return the model of a repository.

    Raises:
        UsageError: the name is no folder of it.
    """
    model = ModelFolder(repository / name)
    if not model.config.is_file() or model.path.parent.resolve() != repository.resolve():
        known = (
            sorted(entry.name for entry in repository.iterdir() if (entry / CONFIG_FILE).is_file())
            if repository.is_dir()
            else []
        )
        raise UsageError(f"model {name}: not in {repository}; there are {', '.join(known) or 'none'}")
    return model


def list_versions(model: ModelFolder) -> list[Version]:
    """Return the versions, oldest first.

    Raises:
        RepositoryError: config.pbtxt or a manifest cannot be read.
    """
    served, found = served_now(model), []
    for number in model.versions:
        manifest = model.manifest(number)
        found.append(Version(number, number in served, manifest, changed_files(model.version(number), manifest or {})))
    return found


def served_now(model: ModelFolder) -> list[int]:
    """Return the versions that config.pbtxt serves."""
    return served_versions(parse(model.read_config() or "", str(model.config)), model.versions)


def diff(model: ModelFolder, first: int, second: int) -> list[str]:
    """Return how two versions differ, a line each, in the manner of `diff -u`.

    Raises:
        RepositoryError: one of them is not there, or was not published by tritonsmith.
    """
    return list(
        difflib.unified_diff(
            _told(model, first), _told(model, second), f"version {first}", f"version {second}", n=0, lineterm=""
        )
    )


def _told(model: ModelFolder, number: int) -> list[str]:
    manifest = _manifest(model, number)
    told: dict[str, Any] = {key: manifest.get(key) for key in _TOLD}
    told["libraries"] = manifest.get("libraries")
    for stage in manifest.get("stages", []):
        told[stage["stage"]] = {key: stage.get(key) for key in ("size_bytes", "parity", "metric")}
    told["files"] = manifest.get("files")
    lines = [f"{path}: {value}" for path, value in _flat(told)]
    config = model.description(number)
    if config is None:
        return lines
    warmups = [f"warm-up: {json.dumps(entry.name)}" for entry in config.model_warmup]
    return lines + render(config.model_copy(update={"model_warmup": ()})).splitlines() + warmups


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [entry for key, inner in value.items() for entry in _flat(inner, f"{path}.{key}" if path else key)]
    return [(path, json.dumps(value))]


def promote(model: ModelFolder, numbers: Sequence[int]) -> None:
    """Serve exactly these versions, with the configuration that the last of them was published with.

    Raises:
        RepositoryError: a version is not there, has changed since it was published, or does not fit the others.
    """
    for number in numbers:
        if changed := changed_files(model.version(number), _manifest(model, number)):
            raise RepositoryError(
                f"{model.version(number) / changed[0]}: is not as it was published; the version is not served"
            )
    try:
        with locked(model.path.parent):
            config = model.description(numbers[-1])
            if config is None:
                config = from_message(parse(model.read_config() or "", str(model.config)), str(model.config))
            policy = VersionPolicy(specific=Specific(versions=tuple(sorted(numbers))))
            config = config.model_copy(update={"version_policy": policy})
            check_fits(model, config)
            replace_config(model, render(config))
    except OSError as error:
        raise cannot_write(model.path.parent, error) from error


def rollback(model: ModelFolder) -> int:
    """Serve the newest version before the oldest that is served now; return its number.

    Raises:
        RepositoryError: there is none, or `promote` refuses it.
    """
    served = served_now(model)
    older = [number for number in model.versions if served and number < served[0]]
    if not older:
        raise RepositoryError(f"{model.path}: no version before {served[0] if served else 'any'}; nothing to roll back to")
    promote(model, older[-1:])
    return older[-1]


def prune(model: ModelFolder, keep: int) -> list[int]:
    """Remove all versions but the newest `keep` and those that are served; return what was removed.

    Each is renamed out of the repository in one step before it is deleted. Warm-up files that no configuration of a version
    that stays reads go too.

    Raises:
        UsageError: keep is not at least 1.
        RepositoryError: the repository cannot be written.
    """
    if keep < 1:
        raise UsageError(f"--keep {keep}: expected 1 or more")
    try:
        with locked(model.path.parent):
            stay = {*model.versions[-keep:], *served_now(model)}
            gone = [number for number in model.versions if number not in stay]
            for number in gone:
                with staging(model) as folder:
                    model.version(number).rename(folder / str(number))
                    sync(model.path)
            _remove_warmup(model)
    except OSError as error:
        raise cannot_write(model.path.parent, error) from error
    return gone


def _remove_warmup(model: ModelFolder) -> None:
    if not model.warmup.is_dir():
        return
    configs = [model.description(number) for number in model.versions]
    messages = [parse(model.read_config() or "", str(model.config))]
    used = {given.input_data_file for message in messages for entry in message.model_warmup for given in entry.inputs.values()}
    for config in filter(None, configs):
        used |= {given.input_data_file for entry in config.model_warmup for given in entry.inputs.values()}
    for file in model.warmup.iterdir():
        if file.name not in used:
            file.unlink()
    if not any(model.warmup.iterdir()):
        shutil.rmtree(model.warmup)


def _manifest(model: ModelFolder, number: int) -> dict[str, Any]:
    if number not in model.versions:
        raise RepositoryError(f"{model.path}: no version {number}; there are {', '.join(map(str, model.versions)) or 'none'}")
    manifest = model.manifest(number)
    if manifest is None:
        raise RepositoryError(f"{model.version(number)}: was not published by tritonsmith, which knows nothing of it")
    return manifest
