"""Score a running server, an artifact, or the PyTorch checkpoint by its task's metric."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tritonsmith.artifact import read_artifact
from tritonsmith.bench import source
from tritonsmith.checkpoint import resolve
from tritonsmith.cli import console, new_app, print_json, run
from tritonsmith.client import PROTOCOLS, Client
from tritonsmith.datasets import read_dataset, spread
from tritonsmith.engines import artifact_predictor, pytorch_predictor, triton_predictor
from tritonsmith.errors import UsageError
from tritonsmith.inputs import load_tokenizer
from tritonsmith.jobs import JobRunner
from tritonsmith.metrics.model import Model
from tritonsmith.metrics.scoring import Scores, answerable_only, check_scorable, score
from tritonsmith.paths import cache_folder
from tritonsmith.tasks import Task

_HELP = (
    "Score a served model (--url), an artifact (--artifact: a published version's folder or a stage's), the PyTorch checkpoint "
    "(--checkpoint), or several side by side, by the metric of their task: EM and F1 of question answering, accuracy and F1 of "
    "text classification, entity F1 of token classification, Spearman's correlation of sentence embeddings. DATASET is SQuAD "
    "JSON or JSON lines; long contexts are read in overlapping windows."
)

app = new_app()


@app.command(help=_HELP)
def main(
    dataset: Annotated[Path, typer.Option(help="SQuAD v1.1 or v2.0 JSON, or JSON lines for the other tasks")],
    url: Annotated[str | None, typer.Option(help="host:port of a running server")] = None,
    protocol: Annotated[str, typer.Option(help=", ".join(PROTOCOLS))] = "grpc",
    model: Annotated[str | None, typer.Option(help="the served model [default: the only one]")] = None,
    repository: Annotated[Path, typer.Option(help="where the model's tokenizer was published")] = Path("model_repository"),
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer.json of a model that is not in the repository")] = None,
    artifact: Annotated[Path | None, typer.Option(help="folder of a published version or of a stage's output")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="demo, a local folder or a hub id, run in PyTorch")] = None,
    task: Annotated[str, typer.Option(help="of the checkpoint; auto: what its config.json says")] = "auto",
    answerable: Annotated[bool, typer.Option("--answerable", help="leave unanswerable questions out")] = False,
    no_answer_threshold: Annotated[
        float, typer.Option(help="no-answer score above which a question is taken to be unanswerable (SQuAD v2.0)")
    ] = 0.0,
    limit: Annotated[int | None, typer.Option(help="only this many examples, evenly spread")] = None,
    max_length: Annotated[int, typer.Option(help="tokens in a window, at most what the model takes")] = 384,
    json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
) -> None:
    """Parse the options, score, print."""
    if url is None and checkpoint is None and artifact is None:
        raise UsageError("nothing to score: pass --url, --artifact, --checkpoint or several of them")
    if not dataset.is_file():
        raise UsageError(f"--dataset {dataset}: no such file")
    rows: dict[str, tuple[Scores, float]] = {}
    with ExitStack() as stack:
        for name, found_task, engine in _engines(
            stack, url, protocol, model, repository, tokenizer, artifact, checkpoint, task
        ):
            check_scorable(found_task)
            examples = read_dataset(dataset, found_task)
            examples = spread(answerable_only(examples, "--answerable") if answerable else examples, limit)
            rows[name] = _score(name, found_task, engine, examples, max_length, no_answer_threshold)
    if json:
        print_json({name: dataclasses.asdict(scores) | {"seconds": seconds} for name, (scores, seconds) in rows.items()})
        return
    console.print(_table(dataset.name, rows))


def _engines(
    stack: ExitStack,
    url: str | None,
    protocol: str,
    model: str | None,
    repository: Path,
    tokenizer: Path | None,
    artifact: Path | None,
    checkpoint: str | None,
    task: str,
) -> Iterator[tuple[str, Task, Model]]:
    """Yield name, task and model of everything that is to be scored."""
    if checkpoint is not None:
        resolved = resolve(checkpoint, JobRunner(cache_folder()), task)
        predict = pytorch_predictor(resolved.path, resolved.task)
        yield f"PyTorch {checkpoint}", resolved.task, Model.of_checkpoint(resolved, predict)
    if artifact is not None:
        if not artifact.is_dir():
            raise UsageError(f"--artifact {artifact}: no such folder")
        found = read_artifact(artifact)
        yield f"{found.backend} {artifact}", found.task, Model.of_artifact(found, artifact_predictor(artifact))
    if url is not None:
        client = stack.enter_context(Client(url, protocol))
        name = client.choose_model(model)
        served = source.find(client, name, repository, tokenizer, None)
        names = [entry["name"] for entry in client.config(name)["input"]]
        labels = dict(enumerate(served.labels))
        encoder = load_tokenizer(served.tokenizer)
        limit = served.max_length or 512
        yield f"Triton {name}", served.task, Model(triton_predictor(client, name), encoder, names, labels, limit)


def _score(
    name: str, task: Task, model: Model, examples: Sequence[object], max_length: int, threshold: float
) -> tuple[Scores, float]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    started = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(name, total=len(examples))
        advance: Callable[[], None] = lambda: progress.advance(bar)  # noqa: E731 (typed, for the dataclass)
        tracked = dataclasses.replace(model, max_length=min(model.max_length, max_length), on_example=advance)
        scores = score(task, tracked, examples, threshold)
    return scores, time.perf_counter() - started


def _table(title: str, rows: dict[str, tuple[Scores, float]]) -> Table:
    table = Table(title=title, title_justify="left", caption="percent; the first figure is the one that counts")
    table.add_column("")
    for name in rows:
        table.add_column(name, justify="right", overflow="fold")
    first = next(iter(rows.values()))[0]
    order = [first.metric, *(figure for figure in first.figures if figure != first.metric)]
    for figure in order:
        table.add_row(
            figure, *(f"{scores.figures[figure]:.2f}" if figure in scores.figures else "-" for scores, _ in rows.values())
        )
    table.add_row("examples", *(str(scores.examples) for scores, _ in rows.values()))
    table.add_row("seconds", *(f"{seconds:.1f}" for _, seconds in rows.values()))
    return table


if __name__ == "__main__":
    run(app)
