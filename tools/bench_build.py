"""Measure a build against optimum's command line, which does the same steps without verifying them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tritonsmith.checkpoint import random_checkpoint, resolve
from tritonsmith.cli import console, new_app, print_json, run
from tritonsmith.errors import StageError, UsageError
from tritonsmith.jobs import JobRunner
from tritonsmith.machine import describe
from tritonsmith.paths import cache_folder

_RECIPE = "export,fuse,int8-dynamic"
_TOOLS = Path(__file__).resolve().parent
_HELP = (
    "Time build_repo.py with an empty cache (export, fuse, INT8, each verified on real text, published) against optimum-cli's "
    "`export onnx`, `onnxruntime optimize`, `onnxruntime quantize` one after another, in turns; then the same build from its "
    "cache."
)

app = new_app()


@app.command(help=_HELP)
def main(
    model: Annotated[str, typer.Argument(help="demo, a folder, random:bert-base or random:bert-large")] = "random:bert-base",
    rounds: Annotated[int, typer.Option(help="of each, in turns")] = 2,
    json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Time, print."""
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: expected 1 or more")
    runner = JobRunner(cache_folder())
    checkpoint = random_checkpoint(model, 1.0, 1.0, runner) if model.startswith("random:") else resolve(model, runner)
    seconds: dict[str, list[float]] = {"optimum-cli": [], "tritonsmith": [], "tritonsmith, from its cache": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder, console.status(f"round {number + 1} of {rounds}"):
            scratch = Path(folder)
            commands = _optimum(checkpoint.path, str(checkpoint.task), scratch)
            seconds["optimum-cli"].append(_time(commands, scratch))
            build = [[sys.executable, str(_TOOLS / "build_repo.py"), str(checkpoint.path), "--name", "m", "--recipe", _RECIPE]]
            build[0] += ["--repository", str(scratch / "repository"), "--json"]
            seconds["tritonsmith"].append(_time(build, scratch))
            seconds["tritonsmith, from its cache"].append(_time(build, scratch))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    if json:
        print_json({"model": model, "machine": describe(), "seconds": seconds, "medians": medians})
        return
    table = Table(title=f"{model}: {_RECIPE}, {rounds} rounds in turns", title_justify="left")
    for column in ("", "seconds", "of optimum-cli's"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in seconds.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        table.add_row(name, each, f"{medians[name] / medians['optimum-cli']:.2f}")
    console.print(table)
    console.print(f"{describe()['processor']}, {describe()['cores']} cores")


def _optimum(checkpoint: Path, task: str, scratch: Path) -> list[list[str]]:
    command = str(Path(sys.executable).parent / "optimum-cli")
    raw, optimised, quantised = (str(scratch / name) for name in ("raw", "optimised", "quantised"))
    return [
        [command, "export", "onnx", "--model", str(checkpoint), "--task", task, raw],
        [command, "onnxruntime", "optimize", "--onnx_model", raw, "-O2", "-o", optimised],
        # Its quantize refuses what its optimize made (no type for fused tensors), so it is given the raw export.
        [command, "onnxruntime", "quantize", "--onnx_model", raw, "--avx512_vnni", "--per_channel", "-o", quantised],
    ]


def _time(commands: list[list[str]], scratch: Path) -> float:
    """Return the seconds that the commands take one after another.

    Raises:
        StageError: one of them fails.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRITONSMITH_CACHE": str(scratch / "cache")}
    started = time.perf_counter()
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
            raise StageError(f"{Path(command[0]).name} {' '.join(command[1:3])}: {lines[-1]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    run(app)
