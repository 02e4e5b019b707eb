"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from tritonsmith.bench.ladder import RungResult
from tritonsmith.bench.sequential import LengthResult
from tritonsmith.metrics.scoring import Scores
from tritonsmith.stage_runs import StageReport


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


def ladder_table(title: str, results: Sequence[RungResult], scores: Mapping[str, Scores]) -> Table:
    """Return the article's table: one row a rung, its size, its metric where measured, median and speed-up at each length."""
    table = Table(title=title, title_justify="left")
    table.add_column("rung")
    table.add_column("MB", justify="right")
    if scores:
        table.add_column(next(iter(scores.values())).metric, justify="right")
    for length in results[0].latency:
        table.add_column(f"{length} tokens", justify="right", no_wrap=True)
    for result in results:
        figures = [f"{result.latency[length].p50:.1f}  {result.speedup[length]:.2f}x" for length in result.latency]
        metric = [f"{scores[result.name].value:.2f}"] if scores else []
        table.add_row(result.name, f"{result.size_bytes / 1e6:.0f}", *metric, *figures)
    return table
