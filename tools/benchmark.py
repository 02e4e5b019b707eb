"""Measure a served model by sequence length."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tritonsmith.bench import sequential, source
from tritonsmith.cli import check_json_target, console, new_app, parse_lengths, print_json, run, write_json
from tritonsmith.client import PROTOCOLS, Client
from tritonsmith.machine import describe
from tritonsmith.report import latency_table

_HELP = (
    "Measure a model on a running Triton: sequential requests of exactly the given token lengths, made from real text. "
    "Latency is measured around the whole client call; queue and compute are Triton's own means of the same requests, "
    "rest is what is left: client library, network, serialising."
)

app = new_app()


@app.command(help=_HELP)
def main(
    url: Annotated[str | None, typer.Option(help="host:port [default: localhost:8001, or :8000 with http]")] = None,
    protocol: Annotated[str, typer.Option(help=", ".join(PROTOCOLS))] = "grpc",
    model: Annotated[str | None, typer.Option(help="the served model [default: the only one]")] = None,
    sequence_lengths: Annotated[str, typer.Option(help="token lengths, comma-separated")] = "32,64,128,256",
    requests: Annotated[int, typer.Option(help="measured requests for each length")] = 50,
    warmup: Annotated[int, typer.Option(help="requests before them that are not counted")] = 10,
    repository: Annotated[Path, typer.Option(help="where the model's tokenizer was published")] = Path("model_repository"),
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json of a model that is not in the repository")] = None,
    task: Annotated[str | None, typer.Option(help="the task of such a model")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file; - prints them")] = None,
) -> None:
    """Parse the options, measure, print."""
    lengths = parse_lengths(sequence_lengths)
    check_json_target(json)
    with Client(url or f"localhost:{8001 if protocol == 'grpc' else 8000}", protocol) as client:
        name = client.choose_model(model)
        served = source.find(client, name, repository, tokenizer, task)
        served.check_lengths(lengths)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(name, total=len(lengths) * (requests + warmup))
            results = sequential.run(
                client,
                name,
                served.inputs(client.config(name)),
                lengths,
                requests,
                warmup,
                lambda length: progress.update(bar, advance=1, description=f"{name}: {length} tokens"),
            )
    document = {
        "model": name,
        "protocol": protocol,
        "requests": requests,
        "warmup": warmup,
        "machine": describe(),
        "lengths": [_as_json(result) for result in results],
    }
    if json is not None and str(json) != "-":
        write_json(json, document)
    if json is not None and str(json) == "-":
        print_json(document)
        return
    console.print(latency_table(f"{name} over {protocol}, {requests} sequential requests a length", results))
    console.print(escape(f"{describe()['processor']}, {os.cpu_count()} cores"))


def _as_json(result: sequential.LengthResult) -> dict[str, Any]:
    return dataclasses.asdict(result) | {"outside_ms": result.outside_ms}


if __name__ == "__main__":
    run(app)
