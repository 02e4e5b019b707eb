"""Publishing: a version enters the repository by one rename, whole or not at all, and never changes afterwards."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.errors import RepositoryError
from tritonsmith.hashing import sha256_file, sha256_json
from tritonsmith.repository.layout import CONFIG_FILE, MANIFEST_FILE, ModelFolder


@dataclass(frozen=True)
class Published:
    """What a call of `publish` did."""

    folder: Path
    version: int
    new: bool
    """False if the newest version already had this content, and nothing was published."""
    config_restored: bool = False
    """True if config.pbtxt did not say what that newest version was published with, and was written again."""


def publish(repository: Path, name: str, files: Mapping[str, Path], config_text: str, manifest: Mapping[str, Any]) -> Published:
    """Publish `files` as the next version of the model `name`, unless the newest version has the same content.

    The content is the files and the configuration. The new version is written to a folder beside the repository (inside it
    Triton would take the folder for a model), synced and renamed; config.pbtxt follows, also by a rename. A crash in between
    is mended by the next call.

    Args:
        repository: created if it is not there; on the same file system as its parent folder.
        name: the model's name.
        files: what the version folder holds, by file name.
        config_text: what config.pbtxt says.
        manifest: recorded in the version folder, completed by `version`, `files` and `content_sha256`.

    Raises:
        RepositoryError: the repository cannot be written, or `name` is a model that was not made by tritonsmith.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        repository = repository.resolve()
        with _locked(repository):
            return _publish(repository, ModelFolder(repository / name), files, config_text, manifest)
    except OSError as error:
        if error.errno == errno.EXDEV:
            reason = "is a mount point, so that nothing can be renamed into it; use a folder inside it"
        else:
            reason = f"cannot be written: {error.strerror or error}"
        raise RepositoryError(f"--repository {repository}: {reason}") from error


def _publish(
    repository: Path, model: ModelFolder, files: Mapping[str, Path], config_text: str, manifest: Mapping[str, Any]
) -> Published:
    hashes = {name: sha256_file(path) for name, path in sorted(files.items())}
    content = sha256_json({"files": hashes, "config": hashlib.sha256(config_text.encode()).hexdigest()})
    newest = model.versions[-1] if model.versions else 0
    if newest:
        previous = model.manifest(newest)
        if previous is None:
            raise RepositoryError(f"{model.path}: version {newest} was not made by tritonsmith; choose another --name")
        if previous["content_sha256"] == content:
            restored = not model.config.is_file() or model.config.read_text(encoding="utf-8") != config_text
            if restored:
                _replace_config(model, config_text)
            return Published(model.version(newest), newest, new=False, config_restored=restored)
    version = newest + 1
    with _staging(repository) as staging:
        document = {**manifest, "version": version, "files": hashes, "content_sha256": content}
        staged_model = ModelFolder(staging / model.path.name)
        _write_version(staged_model.version(version), files, document)
        if model.path.exists():
            staged_model.version(version).rename(model.version(version))
            _sync(model.path)
            _replace_config(model, config_text)
        else:
            _write_file(staged_model.path / CONFIG_FILE, config_text.encode())
            _sync(staged_model.path)
            staged_model.path.rename(model.path)
            _sync(repository)
    return Published(model.version(version), version, new=True)


def _write_version(folder: Path, files: Mapping[str, Path], manifest: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    for name, source in files.items():
        shutil.copyfile(source, folder / name)
        _sync(folder / name)
        (folder / name).chmod(0o444)
    _write_file(folder / MANIFEST_FILE, (json.dumps(manifest, indent=2) + "\n").encode())
    (folder / MANIFEST_FILE).chmod(0o444)
    _sync(folder)


def _replace_config(model: ModelFolder, text: str) -> None:
    with _staging(model.path.parent) as staging:
        _write_file(staging / CONFIG_FILE, text.encode())
        (staging / CONFIG_FILE).replace(model.config)
    _sync(model.path)


def _write_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    folder = repository.parent / f".{repository.name}.staging-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Hold the repository against other publishers, and clear what killed ones left beside it."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for leftover in repository.parent.glob(f".{repository.name}.staging-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)
