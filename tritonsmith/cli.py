"""What all the tools share: one way to run a typer app, so that every failure ends as one line and an exit code."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from tritonsmith.errors import TritonsmithError, UsageError

console = Console(stderr=True, highlight=False)
"""Progress, notes and errors; results alone go to standard output."""
output = Console(highlight=False)
"""Standard output, for results that are for people."""


def new_app() -> typer.Typer:
    """Return a typer app as all the tools use it."""
    return typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def run(app: typer.Typer) -> None:
    """Run `app` on the command line and end the process with 0, 1 (a failed job), 2 (bad usage) or 130 (interrupted)."""
    try:
        code = app(standalone_mode=False)
    except TritonsmithError as error:
        fail(str(error), error.exit_code)
    except typer.TyperException as error:
        fail(f"{error.format_message()} (--help lists the options)", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", 130)
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep the interpreter from complaining while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> None:
    """Print one red line and exit."""
    console.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", soft_wrap=True)
    sys.exit(code)


def parse_lengths(text: str, option: str = "--sequence-lengths") -> list[int]:
    """Return the numbers of a comma-separated list of token lengths, in its order.

    Raises:
        UsageError: something else than positive whole numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} {text}: expected numbers of tokens separated by commas, such as 32,64,128,256")
    return [int(part) for part in parts]


def print_json(document: Any) -> None:
    """Print `document` as JSON on standard output."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def check_json_target(path: Path | None) -> None:
    """Raise UsageError if --json names a file that cannot be written, before any work is done."""
    if path is not None and (not path.parent.is_dir() or path.is_dir()):
        raise UsageError(f"--json {path}: its folder does not exist, or it is a folder itself; choose another file")


def write_json(path: Path, document: Any) -> None:
    """Write `document` to `path` whole or not at all."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    staging.replace(path)
