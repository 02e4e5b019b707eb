"""Measure the same model behind PyTorch + FastAPI, ONNX + FastAPI, ONNX + FastAPI + IOBinding and Triton."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from tritonsmith.bench import source
from tritonsmith.bench.sequential import TEXTS
from tritonsmith.bench.strategies import (
    ARTICLE_MS,
    Strategy,
    StrategyResult,
    baseline_server,
    fastapi_prepare,
    measure,
)
from tritonsmith.build import build
from tritonsmith.checkpoint import random_checkpoint
from tritonsmith.cli import check_json_target, console, new_app, output, parse_lengths, print_json, run, write_json
from tritonsmith.client import Client
from tritonsmith.errors import UsageError
from tritonsmith.jobs import JobRunner
from tritonsmith.machine import describe
from tritonsmith.options import BuildOptions
from tritonsmith.paths import cache_folder
from tritonsmith.serving.options import Ports, ServeOptions
from tritonsmith.serving.server import running

_TOOL = Path(__file__).with_name("serve_baseline.py")
_HELP = (
    "Serve MODEL in four ways and measure them in turns, one request after another: the article's comparison. Every server is "
    "a process of its own and gets the same token ids; FastAPI answers in JSON, Triton over gRPC. Triton serves the same ONNX "
    "file as the ONNX baselines, and the CPU's best variant beside it."
)

app = new_app()


@app.command(help=_HELP)
def main(
    model: Annotated[
        str, typer.Argument(help="demo, a local folder, a hub id, random:bert-base or random:bert-large")
    ] = "demo",
    best_recipe: Annotated[str, typer.Option(help="stages of Triton's best variant")] = "export,openvino",
    heads_left: Annotated[float, typer.Option(help="of a random model: share of attention heads that are not zero")] = 1.0,
    neurons_left: Annotated[float, typer.Option(help="of a random model: share of FFN neurons that are not zero")] = 1.0,
    sequence_lengths: Annotated[str, typer.Option(help="token lengths, comma-separated")] = "32,64,128,256",
    requests: Annotated[int, typer.Option(help="measured requests for each length and server")] = 50,
    warmup: Annotated[int, typer.Option(help="requests before them that are not counted")] = 5,
    threads: Annotated[int, typer.Option(help="of one inference, in every server; 0: every core")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file; - prints them")] = None,
) -> None:
    """Build, serve, measure, print."""
    lengths = parse_lengths(sequence_lengths)
    check_json_target(json)
    if requests < 1 or warmup < 0:
        raise UsageError(f"--requests {requests}, --warmup {warmup}: expected at least 1 and 0")
    checkpoint = model
    if model.startswith("random:"):
        checkpoint = str(random_checkpoint(model, heads_left, neurons_left, JobRunner(cache_folder())).path)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        repository = Path(folder) / "repository"
        for name, recipe in (("onnx", "export"), ("best", best_recipe)):
            console.print(f"building {recipe} ...")
            options = BuildOptions(checkpoint, name=name, recipe=recipe, repository=repository, intra_op_thread_count=threads)
            build(options)
        server = servers.enter_context(running(ServeOptions(repository, runtime="embedded", ports=Ports(0, 0, 0))))
        client = servers.enter_context(server.client())
        served = source.find(client, "onnx", repository, None, None)
        served.check_lengths(lengths)
        inputs = served.inputs(client.config("onnx"))
        strategies = _strategies(servers, client, checkpoint, repository / "onnx" / "1", best_recipe, threads)
        feeds = {length: [inputs.exact(length, index) for index in range(TEXTS)] for length in lengths}
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("in turns", total=requests + warmup)
            results = measure(strategies, feeds, requests, warmup, lambda: progress.advance(bar))
    document = {
        "model": model,
        "heads_left": heads_left,
        "neurons_left": neurons_left,
        "threads": threads,
        "requests": requests,
        "machine": describe(),
        "results": [dataclasses.asdict(result) for result in results],
    }
    if json is not None and str(json) != "-":
        write_json(json, document)
    if json is not None and str(json) == "-":
        print_json(document)
        return
    _print(model, lengths, results, document["machine"])


def _strategies(
    servers: ExitStack, client: Client, checkpoint: str, artifact: Path, best_recipe: str, threads: int
) -> list[Strategy]:
    """Start the baselines; return every strategy, the one that all are compared with first."""
    strategies = []
    for name, engine, model in (
        ("PyTorch + FastAPI", "pytorch", ("--checkpoint", checkpoint)),
        ("ONNX + FastAPI", "onnxruntime", ("--artifact", str(artifact))),
        ("ONNX + FastAPI + IOBinding", "onnxruntime-iobinding", ("--artifact", str(artifact))),
    ):
        console.print(f"starting {name} ...")
        address = servers.enter_context(baseline_server(_TOOL, ["--engine", engine, *model, "--threads", str(threads)]))
        strategies.append(Strategy(name, fastapi_prepare(address)))
    for name, variant in (("Triton", "onnx"), (f"Triton, {best_recipe}", "best")):
        strategies.append(Strategy(name, functools.partial(client.prepare, variant)))
    return strategies


def _print(model: str, lengths: Sequence[int], results: Sequence[StrategyResult], machine: Any) -> None:
    """Print mean milliseconds and speed-ups, the article's speed-ups over its own baseline below ours."""
    table = Table(
        title=f"{escape(model)}: mean ms and x over PyTorch + FastAPI, in turns",
        title_justify="left",
        caption=f"article: its own speed-ups, BERT-large on a Tesla T4; here: {machine['processor']}, {machine['cores']} cores",
        caption_justify="left",
    )
    table.add_column("strategy", no_wrap=True)
    for length in lengths:
        table.add_column(f"{length} tokens", justify="right")
    by_key = {(result.strategy, result.sequence_length): result for result in results}
    for name in dict.fromkeys(result.strategy for result in results):
        found = [by_key[name, length] for length in lengths]
        table.add_row(name, *(f"{result.latency.mean:.2f}\n{result.speedup:.2f} x" for result in found))
        if name in ARTICLE_MS:
            base = ARTICLE_MS["PyTorch + FastAPI"]
            table.add_row(
                "[dim]  article[/]",
                *(f"[dim]{base[n] / ARTICLE_MS[name][n]:.2f} x[/]" if n in base else "" for n in lengths),
            )
    output.print(table)


if __name__ == "__main__":
    run(app)
