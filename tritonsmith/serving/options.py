"""What a user asks of a server, checked before anything starts."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.errors import RepositoryError, ServerError, UsageError
from tritonsmith.preflight.check import check_repository
from tritonsmith.preflight.findings import errors_of
from tritonsmith.preflight.model import Target
from tritonsmith.releases import EMBEDDED, Release, find_release
from tritonsmith.repository.layout import model_folders
from tritonsmith.repository.rendering import parse

RUNTIMES = ("auto", "embedded", "docker")
MODEL_CONTROLS = ("explicit", "poll", "none")
_POLL_SECONDS = 5


@dataclass(frozen=True)
class Ports:
    """The three ports of a server; 0 stands for a free one until `resolve_ports`."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass(frozen=True)
class ServeOptions:
    """What a user asks of `tools/serve.py`; the fields are its options."""

    repository: Path = Path("model_repository")
    runtime: str = "auto"
    ports: Ports = Ports()
    host: str = "127.0.0.1"
    model_control: str = "explicit"
    triton: str = EMBEDDED
    allow_spinning: bool = False
    check: bool = True
    """Whether the preflight must pass first."""
    response_cache_bytes: int = 64 * 2**20
    """Size of the response cache, where a model asks for it."""
    startup_timeout_s: float = 300.0
    drain_timeout_s: float = 30.0


def check_options(options: ServeOptions) -> None:
    """Raise UsageError for an option that cannot be right."""
    if options.runtime not in RUNTIMES:
        raise UsageError(f"--runtime {options.runtime}: unknown; expected one of {', '.join(RUNTIMES)}")
    if options.model_control not in MODEL_CONTROLS:
        raise UsageError(f"--model-control {options.model_control}: unknown; expected one of {', '.join(MODEL_CONTROLS)}")
    for option, port in zip(("--http-port", "--grpc-port", "--metrics-port"), _values(options.ports), strict=True):
        if not 0 <= port < 65536:
            raise UsageError(f"{option} {port}: expected 0 (any free port) to 65535")
    find_release(options.triton)
    if options.response_cache_bytes < 2**20:
        raise UsageError(f"--response-cache-size {options.response_cache_bytes}: expected 1048576 bytes or more")
    if not options.repository.is_dir():
        raise UsageError(f"--repository {options.repository}: no such folder; build a model into it with tools/build_repo.py")


def check_models(repository: Path, release: Release, gpus: int) -> None:
    """Check that there is something to serve, and that the preflight finds no error in it.

    Raises:
        UsageError: no model in the repository.
        ServerError: Triton would refuse a model, or answer wrongly with it.
    """
    if not any(model.config.is_file() for model in model_folders(repository)):
        raise UsageError(f"--repository {repository}: holds no model; build one into it with tools/build_repo.py")
    errors = errors_of(check_repository(repository, Target(release, gpus)))
    if errors:
        more = f" ({len(errors)} errors; tools/check_repo.py lists them)" if len(errors) > 1 else ""
        raise ServerError(f"{repository}/{errors[0]}{more}")


def flags_of_models(repository: Path, cache_bytes: int) -> list[str]:
    """Return the flags without which the server would ignore what its models ask for."""
    configs = []
    for text in filter(None, (model.read_config() for model in model_folders(repository))):
        # One that does not parse is Triton's to refuse, where the preflight was left out.
        with contextlib.suppress(RepositoryError):
            configs.append(parse(text, "config.pbtxt"))
    flags = []
    if any(config.response_cache.enable for config in configs):
        flags.append(f"--cache-config=local,size={cache_bytes}")
    if any(group.HasField("rate_limiter") for config in configs for group in config.instance_group):
        flags.append("--rate-limit=execution_count")
    return flags


def bind_port(option: str, host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address, not yet listening.

    Raises:
        ServerError: the port is in use, or the address is none of this machine's.
    """
    # asyncio switches Nagle's algorithm off for sockets that say TCP alone; with it answers wait 40 ms for acknowledgements.
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ServerError(f"{option} {port}: cannot be bound on {host} ({error.strerror}); choose another, or 0") from None
    return bound


def resolve_ports(ports: Ports, host: str) -> Ports:
    """Return the ports to use, free ones in place of 0.

    Raises:
        ServerError: a port is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for option, port in zip(("--http-port", "--grpc-port", "--metrics-port"), _values(ports), strict=True):
            sockets.append(bind_port(option, host, port))
        return Ports(*(probe.getsockname()[1] for probe in sockets))
    finally:
        for probe in sockets:
            probe.close()


def triton_flags(model_control: str) -> list[str]:
    """Return the flags that mean the same in every runtime.

    Configurations are complete, so Triton completes nothing by itself; a model that fails to load does not end the server, so
    that its reason can be asked for.
    """
    control = {
        "explicit": ["--model-control-mode=explicit", "--load-model=*"],
        "poll": ["--model-control-mode=poll", f"--repository-poll-secs={_POLL_SECONDS}"],
        "none": ["--model-control-mode=none"],
    }[model_control]
    return [*control, "--disable-auto-complete-config", "--exit-on-error=false"]


def _values(ports: Ports) -> tuple[int, int, int]:
    return ports.http, ports.grpc, ports.metrics
