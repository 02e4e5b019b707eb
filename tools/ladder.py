"""Measure every rung from PyTorch to the fastest artifact of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tritonsmith.checkpoint import random_checkpoint, resolve
from tritonsmith.cli import check_json_target, console, new_app, parse_lengths, print_json, run, write_json
from tritonsmith.datasets import Example, read_dataset, spread
from tritonsmith.errors import UsageError
from tritonsmith.jobs import JobRunner
from tritonsmith.ladder import LadderOptions, climb
from tritonsmith.ladder_report import FILES, as_document, check_folder, write
from tritonsmith.metrics.scoring import answerable_only, check_scorable
from tritonsmith.paths import cache_folder
from tritonsmith.recipes import parse_recipe
from tritonsmith.report import LadderProgress, print_ladder
from tritonsmith.tasks import Task

_RECIPES = "export,fuse export,int8-dynamic export,openvino"
_HELP = (
    "Build every rung of the given recipes and measure them in turns in one process, against PyTorch eager in FP32 with the "
    "same number of threads. Each stage of a recipe is a rung. MODEL is as for build_repo.py, or random:bert-base or "
    "random:bert-large: that shape with random weights, for speed alone."
)

app = new_app()


@app.command(help=_HELP)
def main(
    model: Annotated[str, typer.Argument(help="demo, a local folder, a hub id, random:bert-base or random:bert-large")],
    recipes: Annotated[str, typer.Option(help="recipes, separated by blanks")] = _RECIPES,
    heads_left: Annotated[float, typer.Option(help="of a random model: share of attention heads that are not zero")] = 1.0,
    neurons_left: Annotated[float, typer.Option(help="of a random model: share of FFN neurons that are not zero")] = 1.0,
    sequence_lengths: Annotated[str, typer.Option(help="token lengths, comma-separated")] = "32,64,128,256",
    threads: Annotated[int, typer.Option(help="of every engine")] = 1,
    rounds: Annotated[int, typer.Option(help="measured rounds for each length")] = 20,
    warmup: Annotated[int, typer.Option(help="rounds before them")] = 3,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="a rung of PyTorch's own compiler in BF16; it needs a C++ compiler")
    ] = True,
    dataset: Annotated[
        Path | None, typer.Option(help="the task's metric of every rung on these examples (of SQuAD JSON the answerable ones)")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="only this many examples, evenly spread")] = None,
    report: Annotated[Path | None, typer.Option(help=f"write {', '.join(FILES)} into this folder")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file; - prints them")] = None,
) -> None:
    """Parse the options, build, measure, print."""
    for option, value in (("--threads", threads), ("--rounds", rounds), ("--limit", 1 if limit is None else limit)):
        if value < 1:
            raise UsageError(f"{option} {value}: expected 1 or more")
    lengths = parse_lengths(sequence_lengths)
    asked = tuple(",".join(parse_recipe(recipe)) for recipe in recipes.split())
    if not asked:
        raise UsageError("--recipes: names no recipe")
    check_json_target(json)
    check_folder(report)
    runner = JobRunner(cache_folder())
    checkpoint = (
        random_checkpoint(model, heads_left, neurons_left, runner) if model.startswith("random:") else resolve(model, runner)
    )
    too_long = [length for length in lengths if length > checkpoint.max_length]
    if too_long:
        raise UsageError(f"--sequence-lengths {too_long[0]}: {model} takes at most {checkpoint.max_length} tokens")
    examples = _examples(dataset, checkpoint.task, limit)
    options = LadderOptions(asked, tuple(lengths), threads, rounds, warmup, compiled)
    with LadderProgress() as progress:
        result = climb(checkpoint, options, examples, runner, progress.step)
    if report is not None:
        write(result, report)
    if json is not None and str(json) != "-":
        write_json(json, as_document(result))
    if json is not None and str(json) == "-":
        print_json(as_document(result))
        return
    print_ladder(result)
    if report is not None:
        console.print(f"written: {', '.join(escape(str(report / name)) for name in FILES)}", soft_wrap=True)


def _examples(dataset: Path | None, task: Task, limit: int | None) -> list[Example]:
    if dataset is None:
        return []
    check_scorable(task)
    return spread(answerable_only(read_dataset(dataset, task), f"--dataset {dataset}"), limit)


if __name__ == "__main__":
    run(app)
