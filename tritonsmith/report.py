"""Tables and progress for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tritonsmith.bench.sequential import LengthResult
from tritonsmith.cli import console
from tritonsmith.ladder import LadderReport
from tritonsmith.metrics.scoring import Scores
from tritonsmith.stage_runs import StageReport

_WIDEST = 400


def stage_table(stages: Sequence[StageReport], baseline: Scores | None = None) -> Table:
    """Return the table of a build: one row a stage, with its size, its cost and its distance from the checkpoint."""
    table = Table(
        title="stages, each compared with the PyTorch checkpoint on real text",
        title_justify="left",
        caption="same: equal decisions; batch: max diff in a batch from alone; MiB: peak memory"
        + ("; *: from the cache" if any(s.cached for s in stages) else ""),
        caption_justify="left",
    )
    metric = [baseline.metric] if baseline else []
    table.add_column("stage")
    for column in ("MB", "max diff", "rel. L2", "same", "batch", *metric, "seconds", "MiB"):
        table.add_column(column, justify="right")
    if baseline:
        table.add_row("PyTorch", "", "", "", "", "", f"{baseline.value:.2f}", "", "")
    for stage in stages:
        parity = stage.parity or {}
        agreement = parity.get("top1_agreement")
        table.add_row(
            stage.stage,
            f"{stage.size_bytes / 1e6:.1f}",
            f"{parity['max_abs_diff']:.2g}" if parity else "-",
            f"{parity['relative_l2']:.2g}" if parity else "-",
            "-" if agreement is None else f"{agreement:.1%}",
            f"{parity['batch_max_abs_diff']:.2g}" if parity else "-",
            *([f"{stage.metric.value:.2f}" if stage.metric else "-"] if baseline else []),
            f"{stage.seconds:.1f}" + ("*" if stage.cached else ""),
            f"{stage.peak_bytes / 2**20:.0f}",
        )
    return table


def latency_table(title: str, results: Sequence[LengthResult]) -> Table:
    """Return the table of a sequential benchmark: the client's figures, and the server's own means beside them."""
    table = Table(
        title=title, title_justify="left", caption="milliseconds; queue, compute and rest are means", caption_justify="left"
    )
    for column in ("tokens", "p50", "p90", "p99", "mean", "std", "queue", "compute", "rest"):
        table.add_column(column, justify="right")
    for result in results:
        client, server = result.client, result.server
        figures = (client.p50, client.p90, client.p99, client.mean, client.std, server.queue, server.compute, result.outside_ms)
        table.add_row(str(result.sequence_length), *(f"{figure:.2f}" for figure in figures))
    return table


class LadderProgress:
    """The progress of a ladder: what is being done, and how much of it."""

    def __enter__(self) -> LadderProgress:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._progress = Progress(*columns, console=console, transient=True)
        self._progress.start()
        self._bar = self._progress.add_task("resolving", total=None)
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def step(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self._progress.update(self._bar, description=what, completed=done, total=total or None)


def print_ladder(report: LadderReport) -> None:
    """Print the article's table: one row a rung, its size, parameters, memory, metric, medians and speed-ups."""
    table = _ladder_table(report)
    # A narrow terminal wraps the rows; squeezed columns could not be read.
    wanted = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    Console(stderr=True, width=max(console.width, wanted)).print(table)
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in report.peaks.items())
    console.print(f"{report.machine['processor']}, {report.machine['cores']} cores; one large matrix product: {rates} GFLOP/s")
    for note in report.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)


def _ladder_table(report: LadderReport) -> Table:
    table = Table(
        title=f"{report.model}, {report.threads} thread(s): median ms and x over the first rung",
        title_justify="left",
        caption="M: parameters; MiB: peak memory of a process that answers with it",
        caption_justify="left",
    )
    metric = report.rungs[0].metric
    table.add_column("rung", no_wrap=True)
    for column in ("MB", "M", "MiB", *([metric.metric] if metric else [])):
        table.add_column(column, justify="right")
    for length in report.rungs[0].measured.latency:
        table.add_column(f"{length} tokens", justify="right", no_wrap=True)
    for rung in report.rungs:
        measured = rung.measured
        table.add_row(
            measured.name,
            f"{measured.size_bytes / 1e6:.0f}",
            f"{rung.parameters / 1e6:.0f}",
            f"{rung.peak_bytes / 2**20:.0f}",
            *([f"{rung.metric.value:.2f}"] if rung.metric else []),
            *(f"{summary.p50:.1f}  {measured.speedup[length]:.2f}x" for length, summary in measured.latency.items()),
        )
    return table
