"""Check a model repository without starting a server."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tritonsmith.cli import console, new_app, output, parse_lengths, print_json, run
from tritonsmith.errors import RepositoryError, UsageError
from tritonsmith.preflight.check import check_repository
from tritonsmith.preflight.findings import Severity, errors_of
from tritonsmith.preflight.model import Target
from tritonsmith.releases import EMBEDDED, find_release

_HELP = (
    "Find what Triton would refuse of a repository, or accept silently and do otherwise than meant. The repository may be any "
    "tool's.\n\nerror: Triton refuses the model, or it answers wrongly. warning: it does something else than is meant, or "
    "something dear. Exit code 1: there are errors."
)
_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}

app = new_app()


@app.command(help=_HELP)
def main(
    repository: Annotated[Path, typer.Option(help="the model repository")] = Path("model_repository"),
    triton: Annotated[str, typer.Option(help="the Triton release that shall serve it")] = EMBEDDED,
    device: Annotated[str, typer.Option(help="cpu, or gpu:N for a server with N GPUs")] = "cpu",
    lengths: Annotated[
        str | None, typer.Option(help="tokens that are served, for TensorRT's profiles [default: each model's longest]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Parse the options, check, print."""
    served = tuple(parse_lengths(lengths, "--lengths")) if lengths else ()
    found = check_repository(repository, Target(find_release(triton), parse_device(device), served))
    if json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        for finding in found:
            colour = _COLOURS[finding.severity]
            output.print(f"[{colour}]{finding.severity}[/] {escape(str(finding))} [dim]({finding.rule})[/]", soft_wrap=True)
    errors = errors_of(found)
    if errors:
        raise RepositoryError(f"{repository}: {len(errors)} error{'s' if len(errors) > 1 else ''} in {len(found)} findings")
    if not json:
        console.print(f"{escape(str(repository))}: no errors, {len(found)} other finding{'' if len(found) == 1 else 's'}")


def parse_device(device: str) -> int:
    """Return the number of GPUs of `cpu`, `gpu` or `gpu:N`.

    Raises:
        UsageError: another form.
    """
    match = re.fullmatch(r"cpu|gpu(?::(\d+))?", device)
    if not match or match[1] == "0":
        raise UsageError(f"--device {device}: expected cpu, or gpu:N with the number of GPUs")
    return 0 if device == "cpu" else int(match[1] or 1)


if __name__ == "__main__":
    run(app)
