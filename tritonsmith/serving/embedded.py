"""The embedded runtime: tritonserver out of a PyPI wheel, in an environment of its own, with our backends.

The environment is made once and cached; it needs numpy < 2, so it is never the kit's own. The backend folder holds copies of
the wheel's python backend (Triton refuses symbolic links there) beside ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.errors import RuntimeUnavailableError
from tritonsmith.hashing import sha256_file, sha256_json
from tritonsmith.paths import PACKAGE

_REQUIREMENTS = PACKAGE / "serving" / "embedded-requirements.txt"
_BACKENDS = PACKAGE / "serving" / "backends"
# numpy 1.26 has wheels up to Python 3.12, onnxruntime 1.32 from 3.11 on.
_PYTHONS = ((3, 11), (3, 12))
_FACTS = (
    "import json, sys, sysconfig;"
    "print(json.dumps({'version': list(sys.version_info[:2]), 'libdir': sysconfig.get_config_var('LIBDIR'),"
    " 'purelib': sysconfig.get_path('purelib')}))"
)


@dataclass(frozen=True)
class EmbeddedRuntime:
    """A ready environment and backend folder."""

    environment: Path
    site_packages: Path
    library_folder: Path
    """Where the interpreter's libpython lies."""
    backends: Path

    @property
    def executable(self) -> Path:
        """The tritonserver binary."""
        return self.site_packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def caches(self) -> Path:
        """Triton's response cache implementations."""
        return self.site_packages / "pytriton" / "tritonserver" / "caches"

    def variables(self) -> dict[str, str]:
        """Return the environment variables for tritonserver.

        Its stub runs isolated: PYTHONPATH is ignored, and the `python3` found on PATH decides which packages it imports.
        """
        return {
            **os.environ,
            "LD_LIBRARY_PATH": f"{self.site_packages / 'nvidia_pytriton.libs'}:{self.library_folder}",
            "PATH": f"{self.environment / 'bin'}:{os.environ.get('PATH', '')}",
        }


def prepare(cache: Path, on_step: Callable[[str], None] | None = None) -> EmbeddedRuntime:
    """Return the embedded runtime, provisioned into `cache` if it is not there yet.

    Args:
        cache: the kit's cache folder.
        on_step: told what is being done, for what takes long.

    Raises:
        RuntimeUnavailableError: this machine cannot run it; the message says why.
    """
    report = on_step or (lambda _step: None)
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise RuntimeUnavailableError(
            f"the embedded runtime needs Linux on x86_64, found {sys.platform} on {platform.machine()}; use --runtime docker"
        )
    python, version = _find_python()
    key = sha256_json({"requirements": sha256_file(_REQUIREMENTS), "python": [str(python), *version]})[:16]
    environment = cache / "embedded" / key
    if not environment.is_dir():
        with _locked(cache / "embedded"):
            if not environment.is_dir():
                report("installing the embedded Triton (once, about 450 MB)")
                _provision(python, environment)
    facts = _interpreter_facts(environment / "bin" / "python3")
    site_packages = Path(facts["purelib"])
    backends = _lay_out_backends(environment, site_packages, f"{version[0]}.{version[1]}")
    runtime = EmbeddedRuntime(environment, site_packages, Path(facts["libdir"]), backends)
    _check_libraries(runtime)
    return runtime


def _find_python() -> tuple[Path, tuple[int, int]]:
    """Return an interpreter that the pinned packages have wheels for: this one, or another on PATH."""
    candidates = [Path(getattr(sys, "_base_executable", sys.executable))]
    for major, minor in _PYTHONS:
        found = shutil.which(f"python{major}.{minor}")
        if found:
            candidates.append(Path(found))
    for candidate in candidates:
        with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
            version = tuple(_interpreter_facts(candidate)["version"])
            if version in _PYTHONS:
                return candidate, (version[0], version[1])
    names = " or ".join(f"{major}.{minor}" for major, minor in _PYTHONS)
    raise RuntimeUnavailableError(
        f"the embedded runtime needs Python {names}, found {platform.python_version()}; install one or use --runtime docker"
    )


def _interpreter_facts(python: Path) -> dict[str, Any]:
    output = subprocess.run([python, "-I", "-c", _FACTS], check=True, capture_output=True, text=True).stdout
    facts: dict[str, Any] = json.loads(output)
    return facts


def _provision(python: Path, environment: Path) -> None:
    """Create the environment in a folder beside its place, then rename it: it is there whole or not at all."""
    staging = environment.with_name(f".{environment.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    pip: list[str | Path] = [
        staging / "bin" / "python3",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    try:
        commands: list[list[str | Path]] = [[python, "-m", "venv", staging], [*pip, "-r", _REQUIREMENTS]]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no output"]
                reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
                raise RuntimeUnavailableError(f"the embedded runtime cannot be installed: {reason}")
        staging.rename(environment)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _lay_out_backends(environment: Path, site_packages: Path, python_version: str) -> Path:
    """Return the folder for --backend-directory: copies of the wheel's python backend and of ours."""
    ours = sorted(_BACKENDS.glob("*/model.py"))
    shared = _BACKENDS / "common.py"
    digest = sha256_json({str(path.relative_to(_BACKENDS)): sha256_file(path) for path in [shared, *ours]})[:16]
    folder = environment / f"backends-{digest}"
    if folder.is_dir():
        return folder
    wheel = site_packages / "pytriton" / "tritonserver"
    staging = environment / f".backends-{digest}-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(wheel / "backends" / "python", staging / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(wheel / "python_backend_stubs" / python_version / "triton_python_backend_stub", staging / "python")
    for path in ours:
        (staging / path.parent.name).mkdir()
        for source in (path, shared):
            shutil.copyfile(source, staging / path.parent.name / source.name)
    try:
        staging.rename(folder)
    except OSError:
        # Another process laid the same folder out first.
        shutil.rmtree(staging, ignore_errors=True)
        if not folder.is_dir():
            raise
    return folder


def _check_libraries(runtime: EmbeddedRuntime) -> None:
    """Ask the loader whether the binaries find their libraries; a stub that does not makes Triton hang for ever."""
    for binary in (runtime.executable, runtime.backends / "python" / "triton_python_backend_stub"):
        output = subprocess.run(
            ["ldd", binary],  # noqa: S607 (part of every glibc)
            capture_output=True,
            text=True,
            check=False,
            env=runtime.variables(),
        )
        missing = re.findall(r"^\s*(\S+) => not found", output.stdout, flags=re.MULTILINE)
        old = re.findall(r"version `(\S+)' not found", output.stderr + output.stdout)
        if missing:
            hint = f"apt-get install {missing[0].partition('.so')[0]}" if missing[0].startswith("libpython") else "install it"
            raise RuntimeUnavailableError(f"the embedded runtime's {binary.name} lacks the library {missing[0]} ({hint})")
        if old:
            raise RuntimeUnavailableError(f"the embedded runtime's {binary.name} needs {old[0]}, newer than this system's")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
