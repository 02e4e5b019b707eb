"""List, compare, promote, roll back and prune the versions of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tritonsmith.cli import console, new_app, output, print_json, run
from tritonsmith.client import Client
from tritonsmith.repository import versions
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.serving.health import check_model

Repository = Annotated[Path, typer.Option(help="the model repository")]
Model = Annotated[str, typer.Argument(help="the model's name")]
Url = Annotated[str | None, typer.Option(help="a server in explicit mode (gRPC host:port) that shall load the model again")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

_REPOSITORY = Path("model_repository")
app = new_app()


@app.callback(
    help="The versions of a model: what each was made from, and which are served. Version folders never change; what is served "
    "is the version policy of config.pbtxt. A server in poll mode sees the change by itself; --url tells one in explicit mode."
)
def _main() -> None:
    """Hold the commands together."""


@app.command(name="list")
def list_(model: Model, repository: Repository = _REPOSITORY, json: AsJson = False) -> None:
    """Show every version: whether it is served, what it was made from and measured at."""
    found = versions.list_versions(versions.find_model(repository, model))
    if json:
        print_json([_as_json(version) for version in found])
        return
    table = Table("version", "served", "created", "source", "recipe", "MB", "metric", "files")
    for version in found:
        table.add_row(*map(escape, _row(version)))
    output.print(table)


@app.command()
def diff(model: Model, first: int, second: int, repository: Repository = _REPOSITORY) -> None:
    """Show how two versions differ: source, recipe, libraries, figures, files and configuration."""
    typer.echo("\n".join(versions.diff(versions.find_model(repository, model), first, second)) or "no difference")


@app.command()
def promote(
    model: Model,
    version: Annotated[list[int], typer.Argument(help="the versions to serve, and no others")],
    repository: Repository = _REPOSITORY,
    url: Url = None,
) -> None:
    """Serve these versions from now on."""
    folder = versions.find_model(repository, model)
    _ask(url)
    versions.promote(folder, version)
    _tell(folder, url)


@app.command()
def rollback(model: Model, repository: Repository = _REPOSITORY, url: Url = None) -> None:
    """Serve the version before the one that is served."""
    folder = versions.find_model(repository, model)
    _ask(url)
    versions.rollback(folder)
    _tell(folder, url)


@app.command()
def prune(
    model: Model,
    keep: Annotated[int, typer.Option(help="how many of the newest versions stay; those that are served stay anyway")],
    repository: Repository = _REPOSITORY,
) -> None:
    """Remove old versions."""
    gone = versions.prune(versions.find_model(repository, model), keep)
    console.print(f"removed {', '.join(map(str, gone))}" if gone else "nothing to remove")


def _ask(url: str | None) -> None:
    """See that the server answers before anything is changed."""
    if url:
        with Client(url) as client:
            client.models()


def _tell(folder: ModelFolder, url: str | None) -> None:
    """Load the model again where a server is named, and say what is served."""
    if url:
        with Client(url) as client:
            client.load(folder.path.name)
            check_model(client, folder.path.name)
    served = ", ".join(map(str, versions.served_now(folder)))
    console.print(f"{escape(folder.path.name)}: config.pbtxt serves {served}{', and so does the server' if url else ''}")


def _row(version: versions.Version) -> list[str]:
    served = "yes" if version.served else ""
    if version.manifest is None:
        return [str(version.number), served, "", "not published by tritonsmith", "", "", "", ""]
    return [
        str(version.number),
        served,
        version.manifest["created"][:16],
        f"{version.manifest['source']['model']} {version.manifest['source']['sha256'][:8]}",
        " ".join(version.manifest["recipe"]),
        f"{version.size_bytes / 1e6:.1f}" if version.size_bytes else "",
        ", ".join(f"{name} {value:.2f}" for name, value in version.metric["figures"].items()) if version.metric else "",
        f"{version.changed_files[0]} changed" if version.changed_files else "intact",
    ]


def _as_json(version: versions.Version) -> dict[str, object]:
    told = {"version": version.number, "served": version.served, "changed_files": version.changed_files}
    return told | {"manifest": version.manifest}


if __name__ == "__main__":
    run(app)
