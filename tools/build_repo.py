"""Build a checkpoint into a verified, versioned model of a Triton repository."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tritonsmith.build import BuildResult, build
from tritonsmith.cli import console, new_app, parse_lengths, print_json, run
from tritonsmith.datasets import read_dataset, spread
from tritonsmith.jobs import JobRunner
from tritonsmith.ladder import LadderOptions, LadderReport, climb
from tritonsmith.ladder_report import as_document
from tritonsmith.options import BuildOptions
from tritonsmith.recipes import FUSE_LEVELS, ORDER
from tritonsmith.report import LadderProgress, print_ladder, stage_table
from tritonsmith.repository.presets import describe_presets, preset_names
from tritonsmith.tasks import Task

_DEFAULTS = BuildOptions(model="")
_LADDER_LENGTHS = (32, 64, 128, 256)

_HELP = (
    "Build MODEL into a version of a Triton model repository: exported to ONNX, converted to the precision, "
    "verified against the PyTorch checkpoint on real text, published whole or not at all.\n\n"
    f"Presets: {describe_presets()}\n\n"
    "Exit code 1: the build failed, nothing was published; 2: an option is wrong."
)

app = new_app()


@app.command(help=_HELP)
def main(
    model: Annotated[str, typer.Argument(help="demo, a local folder, or a hub id with an optional @revision")],
    name: Annotated[str | None, typer.Option(help="name of the Triton model [default: MODEL's last part]")] = None,
    task: Annotated[str, typer.Option(help=f"auto, {', '.join(Task)}")] = _DEFAULTS.task,
    device: Annotated[str, typer.Option(help="where it will be served: cpu or gpu")] = _DEFAULTS.device,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 (for GPUs) or int8 (dynamic on a cpu, static on a gpu) [default: fp32]")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help=f"your own stages instead: of {', '.join(ORDER)}, in this order")] = None,
    repository: Annotated[Path, typer.Option(help="the model repository, created if need be")] = _DEFAULTS.repository,
    preset: Annotated[
        str | None,
        typer.Option(help=f"how it is served: {', '.join(preset_names())}, or your own YAML file [default: cpu, throughput]"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="a field of config.pbtxt by its path, such as instance_group.0.count=2; repeatable"),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            help="lengths that are served, in tokens: for warm-up, buckets, TensorRT's profiles [default: the preset's]"
        ),
    ] = None,
    warmup: Annotated[
        bool | None, typer.Option("--warmup/--no-warmup", help="run every served length before ready [default: the preset's]")
    ] = None,
    max_batch_size: Annotated[
        int | None,
        typer.Option(help="largest batch; 0: requests carry the batch in their dims [default: the preset's, 0 with openvino]"),
    ] = None,
    instances: Annotated[int | None, typer.Option(help="copies of the model that run at once [default: the preset's]")] = None,
    max_length: Annotated[int, typer.Option(help="longest sequence to verify and serve, in tokens")] = _DEFAULTS.max_length,
    dynamic_batching: Annotated[
        bool | None,
        typer.Option("--dynamic-batching/--no-dynamic-batching", help="merge waiting requests [default: the preset's]"),
    ] = None,
    max_queue_delay: Annotated[
        int | None, typer.Option(help="microseconds that a request may wait for batch mates [default: the preset's]")
    ] = None,
    num_versions: Annotated[int | None, typer.Option(help="how many of the newest versions are served [default: 1]")] = None,
    intra_op_thread_count: Annotated[int, typer.Option(help="threads of one inference; 0: every core")] = (
        _DEFAULTS.intra_op_thread_count
    ),
    dataset: Annotated[
        Path | None, typer.Option(help="examples of the task (SQuAD JSON, or JSON lines): their metric gates the build")
    ] = None,
    dataset_limit: Annotated[int | None, typer.Option(help="only this many examples, evenly spread")] = None,
    max_metric_drop: Annotated[
        str, typer.Option(help="how much of the checkpoint's metric may be lost: a share such as 1%, or points such as 0.5")
    ] = _DEFAULTS.max_metric_drop,
    mixed_precision: Annotated[
        bool, typer.Option(help="where INT8 loses too much, leave the few nodes that cause it in floating point")
    ] = True,
    calibration: Annotated[
        Path | None,
        typer.Option(help="examples (as of --dataset) to calibrate int8-static and openvino with [default: packaged texts]"),
    ] = None,
    fuse_level: Annotated[str, typer.Option(help=f"of the fuse stage: {', '.join(FUSE_LEVELS)}")] = _DEFAULTS.fuse_level,
    triton: Annotated[str, typer.Option(help="Triton release that must be able to load the model")] = _DEFAULTS.triton,
    trust_remote_code: Annotated[bool, typer.Option(help="run Python code that lies beside the weights")] = False,
    ladder: Annotated[
        bool, typer.Option("--ladder", help="then measure every stage in turns against PyTorch (tools/ladder.py has options)")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Parse the options, build, print."""
    options = BuildOptions(
        model=model,
        name=name,
        task=task,
        device=device,
        precision=precision,
        recipe=recipe,
        repository=repository,
        preset=preset,
        settings=tuple(setting or ()),
        lengths=tuple(parse_lengths(lengths, "--lengths")) if lengths else None,
        warmup=warmup,
        max_batch_size=max_batch_size,
        instances=instances,
        max_length=max_length,
        dynamic_batching=dynamic_batching,
        max_queue_delay_microseconds=max_queue_delay,
        num_versions=num_versions,
        intra_op_thread_count=intra_op_thread_count,
        dataset=dataset,
        dataset_limit=dataset_limit,
        max_metric_drop=max_metric_drop,
        mixed_precision=mixed_precision,
        calibration=calibration,
        fuse_level=fuse_level,
        triton=triton,
        trust_remote_code=trust_remote_code,
    )
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("resolve")
        result = build(options, on_start=lambda kind: progress.reset(bar, description=kind))
    report = _climb(options, result) if ladder else None
    if json:
        print_json(_as_json(result) | ({"ladder": as_document(report)} if report else {}))
        return
    console.print(stage_table(result.stages, result.baseline))
    for note in result.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    _print_outcome(result)
    if report:
        print_ladder(report)


def _climb(options: BuildOptions, result: BuildResult) -> LadderReport:
    lengths = tuple(length for length in _LADDER_LENGTHS if length <= options.max_length) or (options.max_length,)
    examples = spread(read_dataset(options.dataset, result.checkpoint.task), options.dataset_limit) if options.dataset else []
    with LadderProgress() as progress:
        ladder = LadderOptions((",".join(options.stages),), lengths)
        return climb(result.checkpoint, ladder, examples, JobRunner(options.cache), progress.step)


def _print_outcome(result: BuildResult) -> None:
    published = result.published
    if published.new:
        console.print(
            f"published [bold]{result.name}[/] version {published.version}: {escape(str(published.folder))}", soft_wrap=True
        )
        return
    console.print(f"unchanged: version {published.version} of [bold]{result.name}[/] has this content; nothing was published")
    if published.config_restored:
        console.print("config.pbtxt differed from what that version was published with and was written again")


def _as_json(result: BuildResult) -> dict[str, object]:
    return {
        "name": result.name,
        "version": result.published.version,
        "folder": str(result.published.folder),
        "new": result.published.new,
        "task": result.checkpoint.task,
        "source": {
            "model": result.checkpoint.source,
            "revision": result.checkpoint.revision,
            "sha256": result.checkpoint.sha256,
        },
        "baseline": dataclasses.asdict(result.baseline) if result.baseline else None,
        "stages": [dataclasses.asdict(stage) for stage in result.stages],
        "notes": result.notes,
    }


if __name__ == "__main__":
    run(app)
