"""Serve a model with FastAPI, as the servers that Triton is compared with."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from rich.markup import escape

from tritonsmith.baselines.engines import ENGINES, load
from tritonsmith.baselines.service import create_app
from tritonsmith.cli import console, new_app, run
from tritonsmith.errors import ServerError, UsageError
from tritonsmith.serving.options import bind_port

_HELP = (
    "Serve a model with FastAPI and uvicorn until Ctrl-C or SIGTERM: POST /predict takes text, POST /infer token ids, "
    "GET /health runs an inference, /docs shows the interface.\n\n"
    "pytorch takes a checkpoint, the others an artifact: a version folder such as model_repository/demo/1."
)

app = new_app()


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, and for which SIGTERM is a clean end."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then say so."""
        await super().startup(sockets)
        console.print(f"[bold green]ready[/]: {escape(self._announcement)}", soft_wrap=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at a signal; uvicorn's own raises it once more at the end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


@app.command(help=_HELP)
def main(
    engine: Annotated[str, typer.Option(help=", ".join(ENGINES))],
    checkpoint: Annotated[str | None, typer.Option(help="for pytorch: demo, a local folder, or a hub id")] = None,
    artifact: Annotated[Path | None, typer.Option(help="for onnxruntime: a stage's folder or a version folder")] = None,
    port: Annotated[int, typer.Option(help="HTTP port; 0: any free one")] = 8080,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    threads: Annotated[int, typer.Option(help="of one inference; 0: every core")] = 0,
    drain_timeout: Annotated[int, typer.Option(help="seconds for requests in flight at the end")] = 30,
) -> None:
    """Parse the options and serve."""
    if not 0 <= port < 65536:
        raise UsageError(f"--port {port}: expected 0 (any free port) to 65535")
    served = load(engine, checkpoint, artifact, threads)
    with bind_port("--port", host, port) as listener:
        address = f"{host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(served), log_level="warning", access_log=False, timeout_graceful_shutdown=drain_timeout
        )
        server = Server(config, f"http://{address} ({engine}, {served.source})")
        server.run(sockets=[listener])
    if not server.started:
        raise ServerError(f"{address}: uvicorn did not start; its last lines are above")


if __name__ == "__main__":
    run(app)
