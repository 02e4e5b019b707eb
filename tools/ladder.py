"""Measure every rung from PyTorch to the fastest artifact of a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tritonsmith.artifact import Artifact
from tritonsmith.bench import ladder
from tritonsmith.checkpoint import Checkpoint, random_checkpoint, resolve
from tritonsmith.cli import check_json_target, console, new_app, parse_lengths, print_json, run, write_json
from tritonsmith.datasets import Example, read_dataset, spread
from tritonsmith.engines import artifact_predictor, pytorch_predictor
from tritonsmith.errors import UsageError
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.jobs import JobRunner
from tritonsmith.machine import describe
from tritonsmith.metrics.model import Model
from tritonsmith.metrics.scoring import answerable_only, check_scorable, score
from tritonsmith.options import BuildOptions
from tritonsmith.paths import cache_folder
from tritonsmith.recipes import parse_recipe
from tritonsmith.report import ladder_table
from tritonsmith.stage_runs import run_stages

_HELP = (
    "Build every rung of the given recipes and measure them in turns in one process, against PyTorch eager in FP32 with the "
    "same number of threads. Each stage of a recipe is a rung. MODEL is as for build_repo.py, or random:bert-base or "
    "random:bert-large: that shape with random weights, for speed alone."
)

app = new_app()


@app.command(help=_HELP)
def main(
    model: Annotated[str, typer.Argument(help="demo, a local folder, a hub id, random:bert-base or random:bert-large")],
    recipes: Annotated[
        str, typer.Option(help="recipes, separated by blanks")
    ] = "export,fuse export,int8-dynamic export,openvino",
    heads_left: Annotated[float, typer.Option(help="of a random model: share of attention heads that are not zero")] = 1.0,
    neurons_left: Annotated[float, typer.Option(help="of a random model: share of FFN neurons that are not zero")] = 1.0,
    sequence_lengths: Annotated[str, typer.Option(help="token lengths, comma-separated")] = "32,64,128,256",
    threads: Annotated[int, typer.Option(help="of every engine")] = 1,
    rounds: Annotated[int, typer.Option(help="measured rounds for each length")] = 20,
    warmup: Annotated[int, typer.Option(help="rounds before them")] = 3,
    dataset: Annotated[
        Path | None, typer.Option(help="the task's metric of every rung on these examples (of SQuAD JSON the answerable ones)")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="only this many examples, evenly spread")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file; - prints them")] = None,
) -> None:
    """Parse the options, build, measure, print."""
    for option, value in (("--threads", threads), ("--rounds", rounds), ("--limit", 1 if limit is None else limit)):
        if value < 1:
            raise UsageError(f"{option} {value}: expected 1 or more")
    lengths = parse_lengths(sequence_lengths)
    asked = [",".join(parse_recipe(recipe)) for recipe in recipes.split()]
    if not asked:
        raise UsageError("--recipes: names no recipe")
    check_json_target(json)
    runner = JobRunner(cache_folder())
    checkpoint = (
        random_checkpoint(model, heads_left, neurons_left, runner) if model.startswith("random:") else resolve(model, runner)
    )
    too_long = [length for length in lengths if length > checkpoint.max_length]
    if too_long:
        raise UsageError(f"--sequence-lengths {too_long[0]}: {model} takes at most {checkpoint.max_length} tokens")
    examples: list[Example] = []
    if dataset:
        check_scorable(checkpoint.task)
        examples = spread(answerable_only(read_dataset(dataset, checkpoint.task), f"--dataset {dataset}"), limit)
    with console.status("building the rungs"):
        rungs, artifact = _rungs(checkpoint, asked, threads, max(*lengths, 32), runner)
    tokenizer = load_tokenizer(artifact.path / "tokenizer.json")
    names = [spec.name for spec in artifact.inputs]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("rounds", total=len(lengths) * (rounds + warmup))
        inputs = TextInputs(tokenizer, checkpoint.task, names, artifact.pad_token_id)
        results = ladder.measure(rungs, inputs, lengths, rounds, warmup, lambda: progress.advance(bar))
        scores = {}
        for rung in progress.track(rungs, description="metric") if examples else []:
            labels = dict(enumerate(checkpoint.labels))
            scored = Model(rung.engine, tokenizer, names, labels, min(384, checkpoint.max_length))
            scores[rung.name] = score(checkpoint.task, scored, examples)
    document: dict[str, Any] = {
        "model": model,
        "threads": threads,
        "machine": describe(),
        "rungs": [dataclasses.asdict(result) for result in results],
        "scores": {name: dataclasses.asdict(value) for name, value in scores.items()},
    }
    if json is not None and str(json) != "-":
        write_json(json, document)
    if json is not None and str(json) == "-":
        print_json(document)
        return
    console.print(ladder_table(f"{model}, {threads} thread(s), median ms and x over the first rung", results, scores))
    console.print(f"{describe()['processor']}, {describe()['cores']} cores")


def _rungs(
    checkpoint: Checkpoint, recipes: list[str], threads: int, max_length: int, runner: JobRunner
) -> tuple[list[ladder.Rung], Artifact]:
    """Return the rungs, PyTorch's first, each stage of each recipe once; and an artifact that knows the inputs."""
    size = sum(file.stat().st_size for file in checkpoint.path.glob("*.safetensors"))
    task = checkpoint.task
    rungs = {
        "PyTorch FP32": ladder.Rung("PyTorch FP32", size, pytorch_predictor(checkpoint.path, task, threads)),
        "PyTorch BF16": ladder.Rung(
            "PyTorch BF16", size // 2, pytorch_predictor(checkpoint.path, task, threads, bfloat16=True)
        ),
    }
    for recipe in recipes:
        options = BuildOptions(checkpoint.source, recipe=recipe, max_length=max_length)
        reports, artifact, _baseline = run_stages(options, checkpoint, runner)
        for position, report in enumerate(reports):
            name = " + ".join(options.stages[: position + 1])
            if report.stage == "compact":
                name, engine = "compact (PyTorch FP32)", pytorch_predictor(Path(report.folder), task, threads)
            else:
                engine = artifact_predictor(Path(report.folder), threads)
            rungs.setdefault(name, ladder.Rung(name, report.size_bytes, engine))
    return list(rungs.values()), artifact


if __name__ == "__main__":
    run(app)
