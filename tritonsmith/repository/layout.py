"""Where things lie in a model repository: `<name>/config.pbtxt`, `<name>/<version>/model.onnx` and `manifest.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

from tritonsmith.errors import RepositoryError
from tritonsmith.hashing import sha256_file
from tritonsmith.repository.model_config import ModelConfig, validate

CONFIG_FILE = "config.pbtxt"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class ModelFolder:
    """One model of a repository."""

    path: Path

    @property
    def config(self) -> Path:
        """The model's config.pbtxt."""
        return self.path / CONFIG_FILE

    @property
    def warmup(self) -> Path:
        """The folder of the files that warm-up requests read; the name is Triton's."""
        return self.path / "warmup"

    def read_config(self) -> str | None:
        """Return the text of config.pbtxt, None if there is none."""
        return self.config.read_text(encoding="utf-8") if self.config.is_file() else None

    @property
    def versions(self) -> list[int]:
        """The version numbers, oldest first; Triton takes every folder named by a positive number for one."""
        if not self.path.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.path.iterdir() if entry.name.isdigit() and entry.is_dir())

    def version(self, number: int) -> Path:
        """Return the folder of a version."""
        return self.path / str(number)

    def manifest(self, number: int) -> dict[str, Any] | None:
        """Return the manifest of a version, None for a version that was not published by us.

        Raises:
            RepositoryError: it is there but cannot be read.
        """
        file = self.version(number) / MANIFEST_FILE
        if not file.is_file():
            return None
        try:
            manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RepositoryError(f"{file}: cannot be read: {error}") from error
        return manifest

    def description(self, number: int) -> ModelConfig | None:
        """Return what a version was published with, None for one that was not published by us (or before that was kept).

        Raises:
            RepositoryError: its manifest cannot be read.
        """
        manifest = self.manifest(number)
        document = manifest.get("config") if manifest else None
        return validate(document, f"{self.version(number) / MANIFEST_FILE}: config") if document else None


def changed_files(version: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the files of a version folder that are not there, or not as its manifest says they were published."""
    return [
        name
        for name, checksum in manifest.get("files", {}).items()
        if not (version / name).is_file() or sha256_file(version / name) != checksum
    ]


def served_versions(config: ModelConfigMessage, versions: Iterable[int]) -> list[int]:
    """Return which of the version folders the policy serves: Triton takes the newest one without a policy."""
    known = sorted(versions)
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return known
    if choice == "specific":
        return [version for version in known if version in policy.specific.versions]
    count = policy.latest.num_versions if choice == "latest" else 1
    return known[-count:] if count else []


def model_folders(repository: Path) -> list[ModelFolder]:
    """Return the models of a repository by name; folders that Triton would take for a model, hidden ones included."""
    return [ModelFolder(entry) for entry in sorted(repository.iterdir()) if entry.is_dir()]
