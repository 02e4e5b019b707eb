"""One running Triton: started, waited for, watched, drained and stopped."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tritonsmith.client import Client
from tritonsmith.errors import ServerError, TritonsmithError
from tritonsmith.paths import cache_folder
from tritonsmith.releases import find_release
from tritonsmith.serving import docker, embedded
from tritonsmith.serving.health import check_model, wait_until_ready
from tritonsmith.serving.log import readable
from tritonsmith.serving.options import (
    Ports,
    ServeOptions,
    check_models,
    check_options,
    flags_of_models,
    resolve_ports,
    triton_flags,
)

_LOG_LINES_KEPT = 50
_KILL_AFTER_DRAIN_S = 15.0
_WATCH_SECONDS = 0.5
_NOTHING_IN_FLIGHT = "Found 0 model versions that have in-flight inferences"
"""What Triton logs at its end when every request has been answered."""


@dataclass(frozen=True)
class Launch:
    """How to start a server: a command, its environment, and where it will listen."""

    runtime: str
    command: list[str]
    environment: dict[str, str]
    ports: Ports
    host: str

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC endpoint."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """host:port of the HTTP endpoint."""
        return f"{self.host}:{self.ports.http}"


def plan(options: ServeOptions, on_step: Callable[[str], None] | None = None) -> Launch:
    """Check the options against this machine and return the command; an embedded runtime is provisioned if need be.

    Raises:
        TritonsmithError: wrong options, no such runtime here, a port in use, nothing to serve.
    """
    check_options(options)
    repository = options.repository.resolve()
    release = find_release(options.triton)
    runtime = options.runtime
    if runtime == "docker":
        docker.require_engine()
    if runtime == "auto":
        usable = docker.engine_problem() is None and docker.has_image(release)
        runtime = "docker" if usable else "embedded"
    gpus = docker.gpu_count() if runtime == "docker" else 0
    if options.check:
        check_models(repository, release, gpus)
    flags = [*triton_flags(options.model_control), *flags_of_models(repository, options.response_cache_bytes)]
    ports = resolve_ports(options.ports, options.host)
    if runtime == "docker":
        name = f"tritonsmith-{ports.http}"
        command = docker.command(repository, release, ports, options.host, flags, gpus > 0, name)
        return Launch(runtime, command, dict(os.environ), ports, options.host)
    prepared = embedded.prepare(cache_folder(), on_step)
    environment = prepared.variables() | {"TRITONSMITH_ORT_ALLOW_SPINNING": str(int(options.allow_spinning))}
    return Launch(runtime, _embedded_command(prepared, repository, ports, options, flags), environment, ports, options.host)


def _embedded_command(
    runtime: embedded.EmbeddedRuntime, repository: Path, ports: Ports, options: ServeOptions, flags: list[str]
) -> list[str]:
    # If this process is killed, Triton must not live on unwatched (setpriv is part of util-linux).
    tether = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    return [
        *tether,
        str(runtime.executable),
        f"--model-repository={repository}",
        f"--backend-directory={runtime.backends}",
        f"--cache-directory={runtime.caches}",
        f"--http-address={options.host}",
        f"--http-port={ports.http}",
        f"--grpc-address={options.host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={options.host}",
        f"--metrics-port={ports.metrics}",
        f"--exit-timeout-secs={int(options.drain_timeout_s)}",
        *flags,
    ]


class TritonServer:
    """A started Triton process."""

    def __init__(self, launch: Launch, on_log: Callable[[str], None] | None = None) -> None:
        """Start the process; `on_log` gets each readable line of its log."""
        self.launch = launch
        self._on_log = on_log or (lambda _line: None)
        self._nothing_in_flight = threading.Event()
        self._tail: collections.deque[str] = collections.deque(maxlen=_LOG_LINES_KEPT)
        # A session of its own: Ctrl-C must reach us alone, so that we can drain it.
        self._process = subprocess.Popen(
            launch.command,
            env=launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id of tritonserver, or of `docker run`."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def client(self, protocol: str = "grpc", timeout_s: float = 60.0) -> Client:
        """Return a new client for this server."""
        return Client(self.launch.grpc_url if protocol == "grpc" else self.launch.http_url, protocol, timeout_s)

    def wait_until_ready(self, timeout_s: float, is_cancelled: Callable[[], bool] = lambda: False) -> list[str]:
        """Wait until every model has really answered; return their names, none if `is_cancelled` says so while waiting.

        Raises:
            ServerError: the server ended, took too long, or a model does not load or answer; the reason is in the message.
        """
        try:
            with self.client() as client:
                return wait_until_ready(client, timeout_s, self.is_alive, is_cancelled)
        except ServerError as error:
            if self.is_alive():
                raise
            self._reader.join(timeout=5)
            reasons = [line for line in self._tail if " error " in line or line.startswith(("error:", "Error"))]
            raise ServerError(f"tritonserver ended: {(reasons or list(self._tail) or [str(error)])[-1]}") from error

    def stop(self, drain_timeout_s: float) -> int:
        """Ask the server to finish what is in flight and end; return its exit code, 0 after a clean end.

        Triton waits in vain for a model whose process has died to unload, and then fails; once nothing is in flight there is
        nothing to wait for, so such a server is ended here, which is a clean end too.
        """
        if not self.is_alive():
            return self._process.wait()
        hopeless = bool(self._children(dead=True))
        self._process.send_signal(signal.SIGTERM)
        if hopeless and self._nothing_in_flight.wait(drain_timeout_s):
            self._kill()
            self._process.wait()
            return 0
        try:
            self._process.wait(drain_timeout_s + _KILL_AFTER_DRAIN_S)
        except subprocess.TimeoutExpired:
            self._kill()
        code = self._process.wait()
        self._reader.join(timeout=5)
        return code

    def stub_pids(self) -> set[int]:
        """Return the ids of the living processes that run the models (python backend stubs)."""
        return self._children(dead=False)

    def _children(self, dead: bool) -> set[int]:
        """Triton never reaps a stub that has died, so it stays as a zombie."""
        found = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if (child.status() == psutil.STATUS_ZOMBIE) is dead:
                        found.add(child.pid)
        return found

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = readable(line)
            if text is not None:
                self._tail.append(text)
                if _NOTHING_IN_FLIGHT in text:
                    self._nothing_in_flight.set()
                self._on_log(text)


@contextlib.contextmanager
def running(
    options: ServeOptions, on_log: Callable[[str], None] | None = None, on_step: Callable[[str], None] | None = None
) -> Iterator[TritonServer]:
    """Run a server that answers for the time of a `with` block.

    Raises:
        TritonsmithError: it cannot be started; nothing is left running.
    """
    server = TritonServer(plan(options, on_step), on_log)
    try:
        server.wait_until_ready(options.startup_timeout_s)
        yield server
    finally:
        server.stop(options.drain_timeout_s)


def watch(server: TritonServer, repair: bool, on_event: Callable[[str], None], stop: threading.Event) -> None:
    """Watch a server until it ends or `stop` is set; a model whose process dies is told and, with `repair`, loaded anew.

    Triton goes on saying that such a model is ready, and never restarts its process. Only a process that disappears makes us
    ask the models, so the statistics hold the users' traffic alone.
    """
    known = server.stub_pids()
    while not stop.wait(_WATCH_SECONDS) and server.is_alive():
        now = server.stub_pids()
        if known - now:
            _examine(server, repair, on_event)
            now = server.stub_pids()
        known = now


def _examine(server: TritonServer, repair: bool, on_event: Callable[[str], None]) -> None:
    with server.client(timeout_s=20.0) as client:
        try:
            models = client.served_models()
        except ServerError:
            return
        for model in models:
            try:
                check_model(client, model)
            except ServerError as error:
                on_event(f"{model} no longer answers: {error}")
                if repair:
                    on_event(f"{model}: {_reload(client, model)}")


def _reload(client: Client, model: str) -> str:
    """Unload and load the model; return what came of it."""
    try:
        client.unload(model)
        deadline = time.monotonic() + 20
        while model in client.served_models() and time.monotonic() < deadline:
            time.sleep(0.1)
        client.load(model)
        check_model(client, model)
    except TritonsmithError as error:
        return f"could not be loaded again: {error}"
    return "loaded again, answers"
