"""Publishing: a version enters the repository by one rename, whole or not at all, and never changes afterwards."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from tritonsmith.errors import RepositoryError
from tritonsmith.hashing import sha256_file, sha256_json
from tritonsmith.repository.layout import CONFIG_FILE, MANIFEST_FILE, ModelFolder, served_versions
from tritonsmith.repository.model_config import ModelConfig, to_document, to_message
from tritonsmith.repository.rendering import parse, render


@dataclass(frozen=True)
class Published:
    """What a call of `publish` did."""

    folder: Path
    version: int
    new: bool
    """False if the newest version already had this content, and nothing was published."""
    config_restored: bool = False
    """True if config.pbtxt did not say what that newest version was published with, and was written again."""


def publish(
    repository: Path,
    name: str,
    files: Mapping[str, Path],
    config: ModelConfig,
    manifest: Mapping[str, Any],
    warmup_files: Mapping[str, bytes] | None = None,
) -> Published:
    """Publish `files` as the next version of the model `name`, unless the newest version has the same content.

    The content is the files and the configuration. The new version is written to a folder beside the repository (inside it
    Triton would take the folder for a model), synced and renamed; config.pbtxt follows, also by a rename. Where the new
    configuration is another one, the old one is first pinned to the versions that it serves, so that Triton finds a repository
    that it can load whenever it looks. A crash in between is mended by the next call.

    Args:
        repository: created if it is not there; on the same file system as its parent folder.
        name: the model's name.
        files: what the version folder holds, by file name.
        config: the model's configuration from now on.
        manifest: recorded in the version folder, completed by `version`, `config`, `files` and `content_sha256`.
        warmup_files: what the configuration's warm-up requests read, by file name.

    Raises:
        RepositoryError: the repository cannot be written, `name` is a model that was not made by tritonsmith, or the
            configuration would serve an older version too that it does not fit.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        repository = repository.resolve()
        with locked(repository):
            return _publish(ModelFolder(repository / name), files, config, manifest, warmup_files or {})
    except OSError as error:
        raise cannot_write(repository, error) from error


def cannot_write(repository: Path, error: OSError) -> RepositoryError:
    """Return the error that tells why the repository could not be changed."""
    if error.errno == errno.EXDEV:
        return RepositoryError(
            f"--repository {repository}: is a mount point, so that nothing can be renamed into it; use a folder inside it"
        )
    return RepositoryError(f"--repository {repository}: cannot be written: {error.strerror or error}")


def _publish(
    model: ModelFolder,
    files: Mapping[str, Path],
    config: ModelConfig,
    manifest: Mapping[str, Any],
    warmup_files: Mapping[str, bytes],
) -> Published:
    text = render(config)
    hashes = {name: sha256_file(path) for name, path in sorted(files.items())}
    content = sha256_json({"files": hashes, "config": hashlib.sha256(text.encode()).hexdigest()})
    newest = model.versions[-1] if model.versions else 0
    if newest:
        previous = model.manifest(newest)
        if previous is None:
            raise RepositoryError(f"{model.path}: version {newest} was not made by tritonsmith; choose another --name")
        if previous["content_sha256"] == content:
            return _keep(model, newest, text, warmup_files)
    version = newest + 1
    check_fits(model, config, version)
    document = {**manifest, "version": version, "config": to_document(config), "files": hashes, "content_sha256": content}
    with staging(model) as folder:
        staged = ModelFolder(folder / model.path.name)
        _write_version(staged.version(version), files, document)
        if not model.path.exists():
            _write_warmup(staged, warmup_files)
            write_file(staged.config, text.encode())
            sync(staged.path)
            staged.path.rename(model.path)
            sync(model.path.parent)
            return Published(model.version(version), version, new=True)
        _add_warmup(model, warmup_files)
        if newest and model.read_config() != text:
            pin(model)
        staged.version(version).rename(model.version(version))
        sync(model.path)
    replace_config(model, text)
    return Published(model.version(version), version, new=True)


def _keep(model: ModelFolder, version: int, text: str, warmup_files: Mapping[str, bytes]) -> Published:
    """Publish nothing, but see to it that the configuration is that of the version."""
    _add_warmup(model, warmup_files)
    restored = model.read_config() != text
    if restored:
        replace_config(model, text)
    return Published(model.version(version), version, new=False, config_restored=restored)


def check_fits(model: ModelFolder, config: ModelConfig, new: int | None = None) -> None:
    """Raise RepositoryError if `config` serves versions that were published with another backend or other tensors."""
    served = served_versions(to_message(config), [*model.versions, *([new] if new else [])])
    for version in served:
        described = model.description(version) if version != new else None
        if described is None:
            continue
        for field in ("backend", "input", "output", "max_batch_size", "default_model_filename"):
            if getattr(described, field) != getattr(config, field):
                raise RepositoryError(
                    f"{model.path}: version {version} has another {field} than the configuration that would serve it too; "
                    "serve fewer versions (--num-versions 1), or choose another --name"
                )


def pin(model: ModelFolder) -> None:
    """Let config.pbtxt serve exactly the versions that it serves now, whatever is added."""
    if (text := model.read_config()) is None:
        return
    message = parse(text, str(model.config))
    served = served_versions(message, model.versions)
    if message.version_policy.WhichOneof("policy_choice") != "specific" and served:
        message.version_policy.specific.versions.extend(served)
        replace_config(model, text_format.MessageToString(message))


def _write_version(folder: Path, files: Mapping[str, Path], manifest: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    for name, source in files.items():
        shutil.copyfile(source, folder / name)
        sync(folder / name)
        (folder / name).chmod(0o444)
    write_file(folder / MANIFEST_FILE, (json.dumps(manifest, indent=2) + "\n").encode())
    (folder / MANIFEST_FILE).chmod(0o444)
    sync(folder)


def _add_warmup(model: ModelFolder, files: Mapping[str, bytes]) -> None:
    """Add what is not there yet; names tell the content, so what is there is right."""
    for name, content in files.items():
        if not (model.warmup / name).is_file():
            model.warmup.mkdir(exist_ok=True)
            with staging(model) as folder:
                write_file(folder / name, content)
                (folder / name).rename(model.warmup / name)
    if files:
        sync(model.warmup)


def _write_warmup(model: ModelFolder, files: Mapping[str, bytes]) -> None:
    if files:
        model.warmup.mkdir()
        for name, content in files.items():
            write_file(model.warmup / name, content)
        sync(model.warmup)


def replace_config(model: ModelFolder, text: str) -> None:
    """Replace config.pbtxt in one step."""
    with staging(model) as folder:
        write_file(folder / CONFIG_FILE, text.encode())
        (folder / CONFIG_FILE).replace(model.config)
    sync(model.path)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and have it on the disk."""
    path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def staging(model: ModelFolder) -> Iterator[Path]:
    """Give a folder on the repository's file system, beside it, for the time of a `with` block."""
    repository = model.path.parent
    folder = Path(tempfile.mkdtemp(prefix=f".{repository.name}.staging-", dir=repository.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Hold the repository against other publishers, and clear what killed ones left beside it."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for leftover in repository.parent.glob(f".{repository.name}.staging-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)
