"""Serve a model repository with Triton: embedded, or in the NGC container."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tritonsmith.cli import console, new_app, print_json, run
from tritonsmith.client import Client
from tritonsmith.errors import ServerError
from tritonsmith.paths import cache_folder
from tritonsmith.serving import detached
from tritonsmith.serving.health import check_model
from tritonsmith.serving.options import MODEL_CONTROLS, RUNTIMES, Ports, ServeOptions
from tritonsmith.serving.server import TritonServer, plan, watch

_DEFAULTS = ServeOptions()
_STOP_MARGIN_S = 30.0
_HELP = (
    "Serve a model repository with Triton until Ctrl-C or SIGTERM, then drain and exit 0. "
    "It reports that it is ready when every model has really answered, and loads a model anew whose process dies.\n\n"
    "auto takes the NGC container if a Docker engine runs and the release's image has been pulled, else the embedded server."
)

app = new_app()


@app.command(help=_HELP)
def main(
    repository: Annotated[Path, typer.Option(help="the model repository")] = _DEFAULTS.repository,
    runtime: Annotated[str, typer.Option(help=", ".join(RUNTIMES))] = _DEFAULTS.runtime,
    http_port: Annotated[int, typer.Option(help="HTTP port; 0: any free one")] = _DEFAULTS.ports.http,
    grpc_port: Annotated[int, typer.Option(help="gRPC port; 0: any free one")] = _DEFAULTS.ports.grpc,
    metrics_port: Annotated[int, typer.Option(help="Prometheus port; 0: any free one")] = _DEFAULTS.ports.metrics,
    host: Annotated[str, typer.Option(help="address to listen on")] = _DEFAULTS.host,
    model_control: Annotated[str, typer.Option(help=", ".join(MODEL_CONTROLS))] = _DEFAULTS.model_control,
    triton: Annotated[str, typer.Option(help="release of the NGC container")] = _DEFAULTS.triton,
    ort_spinning: Annotated[bool, typer.Option(help="let ONNX Runtime's threads spin (embedded)")] = _DEFAULTS.allow_spinning,
    check: Annotated[
        bool, typer.Option(help="refuse what the preflight (tools/check_repo.py) finds wrong, checksums included")
    ] = _DEFAULTS.check,
    response_cache_size: Annotated[int, typer.Option(help="bytes of the response cache, where a model asks for it")] = (
        _DEFAULTS.response_cache_bytes
    ),
    startup_timeout: Annotated[float, typer.Option(help="seconds to be ready in")] = _DEFAULTS.startup_timeout_s,
    drain_timeout: Annotated[float, typer.Option(help="seconds for requests in flight at the end")] = _DEFAULTS.drain_timeout_s,
    detach: Annotated[bool, typer.Option("--detach", help="serve in the background and return when ready")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="stop the background server of the repository")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="ask every model of the background server; exit 1 if one fails")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the command that would run, and exit")] = False,
    json: Annotated[bool, typer.Option("--json", help="print where it listens as JSON")] = False,
    record: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Parse the options and serve."""
    if stop:
        ended = detached.stop(cache_folder(), repository, drain_timeout + _STOP_MARGIN_S)
        console.print(f"stopped (process {ended.pid})")
        return
    if status:
        _status(repository, json)
        return
    options = ServeOptions(
        repository=repository,
        runtime=runtime,
        ports=Ports(http_port, grpc_port, metrics_port),
        host=host,
        model_control=model_control,
        triton=triton,
        allow_spinning=ort_spinning,
        check=check,
        response_cache_bytes=response_cache_size,
        startup_timeout_s=startup_timeout,
        drain_timeout_s=drain_timeout,
    )
    if dry_run:
        typer.echo(shlex.join(plan(options, _step).command))
        return
    if detach:
        arguments = [argument for argument in sys.argv if argument not in ("--detach", "--json")]
        server = detached.start(cache_folder(), repository, [*arguments, "--record"])
        _announce(json, server.http_url, server.grpc_url, server.pid, f"log: {server.log}; --stop ends it")
        return
    _serve(options, json, record)


def _serve(options: ServeOptions, json: bool, record: bool) -> None:
    """Serve in the foreground until a signal or the server's own end."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_arguments: ended.set())
    launch = plan(options, _step)
    if ended.is_set():
        return
    server = TritonServer(launch, _log)
    try:
        server.wait_until_ready(options.startup_timeout_s, ended.is_set)
        if not ended.is_set():
            if record:
                log = detached.log_file(cache_folder(), options.repository)
                detached.record(cache_folder(), options.repository, launch.http_url, launch.grpc_url, log)
            _announce(json, launch.http_url, launch.grpc_url, server.pid, f"{launch.runtime}; Ctrl-C drains and ends it")
            watch(server, options.model_control == "explicit", _event, ended)
        if not ended.is_set():
            raise ServerError("tritonserver ended by itself; its last lines are above")
    finally:
        console.print("draining ...")
        code = server.stop(options.drain_timeout_s)
        if record:
            detached.forget(cache_folder(), options.repository)
    if code != 0:
        raise ServerError(f"tritonserver ended with exit code {code}")


def _status(repository: Path, json: bool) -> None:
    server = detached.find(cache_folder(), repository)
    if server is None:
        raise ServerError(f"--status: no background server of {repository} is running")
    with Client(server.grpc_url, timeout_s=30.0) as client:
        models = client.served_models()
        for model in models:
            check_model(client, model)
    if json:
        print_json({"pid": server.pid, "http": server.http_url, "grpc": server.grpc_url, "models": models})
    else:
        console.print(f"process {server.pid} answers for {', '.join(models)} (HTTP {server.http_url}, gRPC {server.grpc_url})")


def _announce(json: bool, http_url: str, grpc_url: str, pid: int, remark: str) -> None:
    if json:
        print_json({"pid": pid, "http": http_url, "grpc": grpc_url})
        sys.stdout.flush()
    console.print(f"[bold green]ready[/]: HTTP {http_url}, gRPC {grpc_url} ({escape(remark)})", soft_wrap=True)


def _step(text: str) -> None:
    console.print(f"{escape(text)} ...")


def _log(line: str) -> None:
    console.print(escape(line), soft_wrap=True)


def _event(text: str) -> None:
    console.print(f"[yellow]{escape(text)}[/]", soft_wrap=True)


if __name__ == "__main__":
    run(app)
