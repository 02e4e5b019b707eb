"""What a user asks of a server, checked before anything starts."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.errors import ServerError, UsageError
from tritonsmith.releases import EMBEDDED, find_release
from tritonsmith.repository.layout import model_folders
from tritonsmith.repository.model_config import parse

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
    if not options.repository.is_dir():
        raise UsageError(f"--repository {options.repository}: no such folder; build a model into it with tools/build_repo.py")


def check_repository(repository: Path, has_gpu: bool) -> None:
    """Check that there is something to serve, and that no model asks for a GPU where there is none.

    Raises:
        UsageError: no model in the repository.
        ServerError: a model of KIND_GPU on a machine without a GPU.
        RepositoryError: a config.pbtxt that does not parse.
    """
    models = [model for model in model_folders(repository) if model.config.is_file()]
    if not models:
        raise UsageError(f"--repository {repository}: holds no model; build one into it with tools/build_repo.py")
    for model in models:
        config = parse(model.config.read_text(encoding="utf-8"), str(model.config))
        if not has_gpu and any(group.kind == group.KIND_GPU for group in config.instance_group):
            raise ServerError(
                f"{model.config}: asks for KIND_GPU, but this runtime has no GPU; build it again with --device cpu, "
                "or serve it with --runtime docker on a machine with an NVIDIA GPU"
            )


def resolve_ports(ports: Ports, host: str) -> Ports:
    """Return the ports to use, free ones in place of 0.

    Raises:
        ServerError: a port is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for option, port in zip(("--http-port", "--grpc-port", "--metrics-port"), _values(ports), strict=True):
            probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sockets.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ServerError(
                    f"{option} {port}: cannot be bound on {host} ({error.strerror}); choose another, or 0"
                ) from None
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
