"""The embedded runtime's environment: there whole or not at all, and refused where it cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonsmith.errors import RuntimeUnavailableError
from tritonsmith.serving import embedded


def test_failed_installation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{tmp_path}/no-such.whl\n")
    monkeypatch.setattr(embedded, "_REQUIREMENTS", requirements)
    with pytest.raises(RuntimeUnavailableError, match="cannot be installed: ERROR"):
        embedded.prepare(tmp_path / "cache")
    assert list((tmp_path / "cache" / "embedded").iterdir()) == []


def test_other_platforms_are_sent_to_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(RuntimeUnavailableError, match="--runtime docker"):
        embedded.prepare(tmp_path)


def test_no_suitable_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PYTHONS", ((2, 7),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match=r"needs Python 2\.7"):
        embedded.prepare(tmp_path)


def test_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ldd` is stood in for: a stub without its libpython would make Triton hang for ever."""
    (tmp_path / "ldd").write_text("#!/bin/sh\nprintf '\\tlibpython3.11.so.1.0 => not found\\n'\n")
    (tmp_path / "ldd").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    runtime = embedded.EmbeddedRuntime(tmp_path, tmp_path, tmp_path, tmp_path)
    with pytest.raises(
        RuntimeUnavailableError, match=r"lacks the library libpython3\.11\.so\.1\.0 \(apt-get install libpython3\.11\)"
    ):
        embedded._check_libraries(runtime)


def test_backend_folder_holds_copies(tmp_path: Path) -> None:
    wheel = tmp_path / "site" / "pytriton" / "tritonserver"
    (wheel / "backends" / "python").mkdir(parents=True)
    (wheel / "backends" / "python" / "libtriton_python.so").write_text("library")
    (wheel / "python_backend_stubs" / "3.11").mkdir(parents=True)
    (wheel / "python_backend_stubs" / "3.11" / "triton_python_backend_stub").write_text("stub")
    folder = embedded._lay_out_backends(tmp_path, tmp_path / "site", "3.11")
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    ours = {f"{backend}/{name}" for backend in ("onnxruntime", "openvino") for name in ("common.py", "model.py")}
    assert files == {"python/libtriton_python.so", "python/triton_python_backend_stub", *ours}
    assert not any(file.is_symlink() for file in folder.rglob("*"))
    assert embedded._lay_out_backends(tmp_path, tmp_path / "site", "3.11") == folder
