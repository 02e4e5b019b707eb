"""Measure what Triton adds to the bare model."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from tritonsmith.artifact import MODEL_FILE
from tritonsmith.bench import overhead, source
from tritonsmith.build import build
from tritonsmith.cli import console, new_app, print_json, run
from tritonsmith.machine import describe
from tritonsmith.options import BuildOptions
from tritonsmith.serving.options import Ports, ServeOptions
from tritonsmith.serving.server import running

_LIMIT = 1.10
_HELP = (
    "Build the demo model, serve it embedded, and compare one request over gRPC (batch 1) with session.run on the same file: "
    "same settings, in turns, in one run."
)

app = new_app()


@app.command(help=_HELP)
def main(
    precisions: Annotated[str, typer.Option(help="comma-separated")] = "fp32,int8",
    sequence_length: Annotated[int, typer.Option(help="tokens")] = 128,
    rounds: Annotated[int, typer.Option(help="measured rounds")] = 300,
    threads: Annotated[int, typer.Option(help="ONNX Runtime threads on both sides; 0: every core")] = 0,
    warmup: Annotated[int, typer.Option(help="rounds before them")] = 30,
    json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Build, serve, measure, print."""
    chosen = precisions.split(",")
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        for precision in chosen:
            build(
                BuildOptions(
                    "demo", name=f"demo_{precision}", precision=precision, repository=repository, intra_op_thread_count=threads
                )
            )
        options = ServeOptions(repository=repository, runtime="embedded", ports=Ports(0, 0, 0))
        results = []
        with running(options) as server, server.client() as client, Progress(console=console, transient=True) as progress:
            for precision in chosen:
                name = f"demo_{precision}"
                served = source.find(client, name, repository, None, None)
                served.check_lengths([sequence_length])
                feed = served.inputs(client.config(name)).exact(sequence_length)
                bar = progress.add_task(name, total=rounds + warmup)
                file = repository / name / "1" / MODEL_FILE
                results.append(
                    overhead.measure(
                        client, name, file, feed, threads, rounds, warmup, functools.partial(progress.advance, bar)
                    )
                )
    if json:
        print_json({"machine": describe(), "tokens": sequence_length, "results": [dataclasses.asdict(r) for r in results]})
        return
    heading = f"one request of {sequence_length} tokens, batch 1, {threads or 'all'} threads, {rounds} rounds in turns"
    table = Table(title=heading, title_justify="left")
    for column in (
        "model",
        "gRPC p50 ms",
        "bare p50 ms",
        "added ms",
        "ratio",
        "quartiles",
        "at most",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for result in results:
        low, high = result.paired_quartiles
        table.add_row(
            result.model,
            f"{result.served.p50:.2f}",
            f"{result.bare.p50:.2f}",
            f"{result.served.p50 - result.bare.p50:.2f}",
            f"{result.ratio:.3f}",
            f"{low:.3f} - {high:.3f}",
            f"{_LIMIT:.2f} {'met' if result.ratio <= _LIMIT else 'MISSED'}",
        )
    console.print(table)


if __name__ == "__main__":
    run(app)
