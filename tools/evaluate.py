"""Score question answering (EM and F1) of a running server, or of the PyTorch checkpoint."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tritonsmith.bench import source
from tritonsmith.checkpoint import resolve
from tritonsmith.cli import console, new_app, print_json, run
from tritonsmith.client import PROTOCOLS, Client
from tritonsmith.engines import pytorch_predictor, triton_predictor
from tritonsmith.errors import UsageError
from tritonsmith.inputs import load_tokenizer
from tritonsmith.jobs import JobRunner
from tritonsmith.metrics.extractive import QuestionAnswerer
from tritonsmith.metrics.squad import Example, Scores, read_dataset, score
from tritonsmith.paths import cache_folder
from tritonsmith.tasks import Task

_HELP = (
    "Score extractive question answering on a file in SQuAD's JSON format: a served model (--url), the PyTorch checkpoint "
    "(--checkpoint), or both side by side. Long contexts are read in overlapping windows."
)

app = new_app()


@app.command(help=_HELP)
def main(
    dataset: Annotated[Path, typer.Option(help="SQuAD v1.1 or v2.0 JSON")],
    url: Annotated[str | None, typer.Option(help="host:port of a running server")] = None,
    protocol: Annotated[str, typer.Option(help=", ".join(PROTOCOLS))] = "grpc",
    model: Annotated[str | None, typer.Option(help="the served model [default: the only one]")] = None,
    repository: Annotated[Path, typer.Option(help="where the model's tokenizer was published")] = Path("model_repository"),
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json of a model that is not in the repository")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="demo, a local folder or a hub id, run in PyTorch")] = None,
    answerable: Annotated[bool, typer.Option("--answerable", help="leave unanswerable questions out")] = False,
    limit: Annotated[int | None, typer.Option(help="only this many questions, evenly spread")] = None,
    max_length: Annotated[int, typer.Option(help="tokens in a window")] = 384,
    json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
) -> None:
    """Parse the options, score, print."""
    if url is None and checkpoint is None:
        raise UsageError("nothing to score: pass --url, --checkpoint or both")
    examples = _select(read_dataset(dataset), answerable, limit)
    rows: dict[str, tuple[Scores, float]] = {}
    if checkpoint is not None:
        resolved = resolve(checkpoint, JobRunner(cache_folder()), Task.QUESTION_ANSWERING)
        predict = pytorch_predictor(resolved.path, Task.QUESTION_ANSWERING)
        names = ["input_ids", "attention_mask", "token_type_ids"]
        answerer = QuestionAnswerer(predict, load_tokenizer(resolved.path / "tokenizer.json"), names, max_length)
        rows[f"PyTorch {checkpoint}"] = _score("PyTorch", answerer, examples)
    if url is not None:
        with Client(url, protocol) as client:
            name = client.choose_model(model)
            served = source.find(client, name, repository, tokenizer, None)
            if served.task is not Task.QUESTION_ANSWERING:
                raise UsageError(f"--model {name}: is for {served.task}; only question-answering can be scored")
            names = [entry["name"] for entry in client.config(name)["input"]]
            answerer = QuestionAnswerer(triton_predictor(client, name), load_tokenizer(served.tokenizer), names, max_length)
            rows[f"Triton {name}"] = _score("Triton", answerer, examples)
    if json:
        print_json({engine: dataclasses.asdict(scores) | {"seconds": seconds} for engine, (scores, seconds) in rows.items()})
        return
    table = Table(title=dataset.name, title_justify="left")
    for column in ("engine", "questions", "EM", "F1", "seconds"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for engine, (scores, seconds) in rows.items():
        table.add_row(engine, str(scores.questions), f"{scores.exact_match:.2f}", f"{scores.f1:.2f}", f"{seconds:.1f}")
    console.print(table)


def _select(examples: list[Example], answerable: bool, limit: int | None) -> list[Example]:
    chosen = [example for example in examples if example.answers or not answerable]
    if not chosen:
        raise UsageError("--answerable: the dataset has no answerable question")
    if limit is None or limit >= len(chosen):
        return chosen
    if limit < 1:
        raise UsageError(f"--limit {limit}: expected 1 or more")
    return [chosen[index * len(chosen) // limit] for index in range(limit)]


def _score(label: str, answerer: QuestionAnswerer, examples: list[Example]) -> tuple[Scores, float]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    started = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        predictions = [
            answerer.answer(example.question, example.context).text for example in progress.track(examples, description=label)
        ]
    return score(examples, predictions), time.perf_counter() - started


if __name__ == "__main__":
    run(app)
