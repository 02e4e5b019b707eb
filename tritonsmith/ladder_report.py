"""The ladder as files: figures as JSON, tables as Markdown, and one self-contained HTML page with the picture."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jinja2

from tritonsmith.errors import UsageError
from tritonsmith.ladder import LadderReport, RungReport
from tritonsmith.paths import templates_folder

FILES = ("ladder.json", "ladder.md", "ladder.html")

_MARGIN_POINTS = 2


def as_document(report: LadderReport) -> dict[str, Any]:
    """Return the report as what JSON holds: times in milliseconds, sizes in bytes, rates in GFLOP/s."""
    rungs = []
    for rung in report.rungs:
        fields = dataclasses.asdict(rung)
        rungs.append({**fields.pop("measured"), **fields})
    return {**dataclasses.asdict(report), "rungs": rungs}


def check_folder(folder: Path | None) -> None:
    """Raise UsageError if `--report` names a file."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"--report {folder}: is a file; expected a folder")


def write(report: LadderReport, folder: Path) -> None:
    """Write FILES into `folder`, created if need be.

    Raises:
        UsageError: it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=jinja2.select_autoescape(("html.j2",)),
    )
    lengths = list(report.rungs[0].measured.latency)
    values = {"report": report, "lengths": lengths, "picture": picture(report, lengths)}
    texts = {
        "ladder.json": json.dumps(as_document(report), indent=2) + "\n",
        "ladder.md": environment.get_template("ladder.md.j2").render(values),
        "ladder.html": environment.get_template("ladder.html.j2").render(values),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).write_text(texts[name], encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report {folder}: cannot be written: {error.strerror}") from error


def picture(report: LadderReport, lengths: list[int]) -> str:
    """Return an SVG: the metric against the latency of each rung, or the speed-ups where no metric was computed."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ladder", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    if report.rungs[0].metric is not None:
        _metric_against_latency(axes, report.rungs, 128 if 128 in lengths else lengths[-1])
    else:
        _speedups(axes, report.rungs, lengths)
    axes.grid(alpha=0.3)
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    svg = sink.getvalue()
    return svg[svg.index("<svg") :]


def _metric_against_latency(axes: Any, rungs: list[RungReport], length: int) -> None:
    values = []
    for rung in rungs:
        assert rung.metric is not None
        values.append(rung.metric.value)
        # Rungs of equal metric lie close together: a legend can be read where labels would overlap.
        axes.scatter(rung.measured.latency[length].p50, values[-1], s=50, label=rung.measured.name)
    first = rungs[0]
    assert first.metric is not None
    axes.axhline(first.metric.value, linewidth=0.8, linestyle="--", color="grey")
    axes.set_xlim(left=0)
    # A scale that fits the points would make differences of a tenth look like cliffs.
    axes.set_ylim(min(*values, first.metric.value) - _MARGIN_POINTS, max(*values, first.metric.value) + _MARGIN_POINTS)
    axes.set_xlabel(f"median latency at {length} tokens, ms")
    axes.set_ylabel(f"{first.metric.metric}, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _speedups(axes: Any, rungs: list[RungReport], lengths: list[int]) -> None:
    for rung in rungs:
        axes.plot(
            range(len(lengths)), [rung.measured.speedup[length] for length in lengths], marker="o", label=rung.measured.name
        )
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_xlabel("tokens")
    axes.set_ylabel(f"times faster than {rungs[0].measured.name}")
    axes.legend(fontsize=8)
