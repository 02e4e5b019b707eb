"""Where things lie in a model repository: `<name>/config.pbtxt`, `<name>/<version>/model.onnx` and `manifest.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.errors import RepositoryError

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


def model_folders(repository: Path) -> list[ModelFolder]:
    """Return the models of a repository by name; folders that Triton would take for a model, hidden ones included."""
    return [ModelFolder(entry) for entry in sorted(repository.iterdir()) if entry.is_dir()]
