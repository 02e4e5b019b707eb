"""Build the demo model, serve it on the embedded Triton, ask it questions, measure it, stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tritonsmith.bench import sequential, source
from tritonsmith.build import build
from tritonsmith.checkpoint import DEMO
from tritonsmith.cli import console, new_app, parse_lengths, run
from tritonsmith.client import Client
from tritonsmith.engines import triton_predictor
from tritonsmith.errors import VerificationError
from tritonsmith.inputs import load_tokenizer, passages
from tritonsmith.machine import describe
from tritonsmith.metrics.extractive import QuestionAnswerer
from tritonsmith.metrics.model import Model
from tritonsmith.options import BuildOptions
from tritonsmith.report import latency_table
from tritonsmith.serving.options import Ports, ServeOptions
from tritonsmith.serving.server import running

_NAME = "demo"
_QUESTIONS = (
    (0, "Who worked a little bit harder?", "The second little pig"),
    (0, "What did the third little pig build his house with?", "bricks"),
    (4, "In which year did he enlarge his notes into a sketch?", "1844"),
)
_HELP = (
    "Build the demo model (question answering, INT8), serve it on the embedded Triton on free loopback ports, ask it questions "
    "with known answers, measure it by sequence length and stop the server. A second run reuses everything."
)

app = new_app()


@app.command(help=_HELP)
def main(
    repository: Annotated[Path, typer.Option(help="the model repository")] = Path("model_repository"),
    sequence_lengths: Annotated[str, typer.Option(help="token lengths, comma-separated")] = "32,64,128,256",
    requests: Annotated[int, typer.Option(help="measured requests for each length")] = 50,
) -> None:
    """Run the whole path once."""
    lengths = parse_lengths(sequence_lengths)
    console.rule("build", align="left")
    with console.status("resolve") as status:
        options = BuildOptions(DEMO, name=_NAME, precision="int8", repository=repository)
        result = build(options, on_start=lambda kind: status.update(kind))
    for stage in result.stages:
        assert stage.parity is not None
        difference = f"answers within {stage.parity['max_abs_diff']:.2g} of PyTorch's"
        console.print(f"{stage.stage}: {stage.size_bytes / 1e6:.1f} MB, {difference}{' (cached)' if stage.cached else ''}")
    outcome = "published" if result.published.new else "unchanged"
    console.print(f"{outcome}: {escape(str(result.published.folder))}", soft_wrap=True)
    console.rule("serve", align="left")
    serving = ServeOptions(repository=repository, runtime="embedded", ports=Ports(0, 0, 0))
    with running(serving, on_step=lambda step: console.print(f"{step} ...")) as server:
        console.print(f"Triton answers at {server.launch.http_url} (HTTP) and {server.launch.grpc_url} (gRPC)")
        with server.client() as client:
            console.rule("ask", align="left")
            _ask(client, repository)
            console.rule("measure", align="left")
            console.print(_measure(client, repository, lengths, requests))
            console.print(f"{describe()['processor']}, {describe()['cores']} cores, shared by server and client")
    console.print("Triton has stopped. Next: tools/serve.py serves the repository, tools/benchmark.py measures it.")


def _ask(client: Client, repository: Path) -> None:
    """Ask questions with known answers over the server; raise VerificationError for a wrong answer."""
    served = source.find(client, _NAME, repository, None, None)
    names = [entry["name"] for entry in client.config(_NAME)["input"]]
    answerer = QuestionAnswerer(Model(triton_predictor(client, _NAME), load_tokenizer(served.tokenizer), names))
    for passage, question, expected in _QUESTIONS:
        answer = answerer.answer(question, passages()[passage]["text"])
        console.print(f"{escape(question)} [bold]{escape(answer.text)}[/]")
        if answer.text.lower() != expected.lower():
            raise VerificationError(f"{_NAME} answered {answer.text!r} to {question!r}, expected {expected!r}")


def _measure(client: Client, repository: Path, lengths: list[int], requests: int) -> object:
    served = source.find(client, _NAME, repository, None, None)
    served.check_lengths(lengths)
    warmup = min(10, requests)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console, transient=True
    ) as progress:
        bar = progress.add_task("requests", total=len(lengths) * (requests + warmup))
        inputs = served.inputs(client.config(_NAME))
        results = sequential.run(client, _NAME, inputs, lengths, requests, warmup, lambda _length: progress.advance(bar))
    return latency_table(f"{_NAME} on Triton over gRPC, batch 1, {requests} sequential requests a length", results)


if __name__ == "__main__":
    run(app)
