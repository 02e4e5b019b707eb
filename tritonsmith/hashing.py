"""Content hashes: what the cache, the manifest and the checks mean by "the same"."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(document: Any) -> str:
    """Return the SHA-256 of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def sha256_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each named file of `folder`, by name."""
    return {name: sha256_file(folder / name) for name in sorted(names)}
