"""Look at the history of receipts: list, trends, a report as a page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.bench.history import Row, Trend

METRICS = ("tokens_per_second", "prefill_ms", "cpu_ms_per_token", "rss_mb")


def history_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The folders, the index and the filters of every command of the group."""
    options = (
        click.argument("roots", nargs=-1, type=click.Path(path_type=Path, exists=True)),
        click.option("--index", type=click.Path(path_type=Path), help="The index. [default: in the cache folder]"),
        click.option("-m", "--model", help="Part of the model's file name, or the beginning of its hash."),
        click.option("--machine", help="Part of the machine's name."),
        click.option("--isa", help="Part of the instruction set's name."),
        click.option("--threads", type=int, help="Exactly so many threads."),
        click.option("--backend", help="Exactly this back end."),
        click.option("--commit", help="The beginning of a commit."),
        click.option("--key", help="The beginning of a key."),
        click.option(
            "--since", metavar="DATE", help="Not before YYYY-MM-DD, or a longer beginning of a moment in UTC."
        ),
        click.option("--until", metavar="DATE", help="Not after it."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _rows(*, accepted_only: bool, roots: tuple[Path, ...], index: Path | None, **filters: Any) -> list[Row]:
    """The rows that pass, from an index brought up to date first. Errors: FileNotFoundError where no folder is there."""
    from tritium import env
    from tritium.bench.history import ROOTS, Filters, index_path, open_index, query, refresh

    places = list(roots) or [root for root in ROOTS if root.exists()]
    if not places:
        raise FileNotFoundError(2, "no folder of receipts here", " ".join(map(str, ROOTS)))
    connection = open_index(index or index_path(env.cache_folder(), places))
    try:
        read, forgotten = refresh(connection, places)
        if read or forgotten:
            note(f"index: {read} files read, {forgotten} forgotten")
        return query(connection, Filters(**filters, accepted_only=accepted_only))
    finally:
        connection.close()


@click.group(short_help=__doc__)
def command() -> None:
    """Look at the history of receipts.

    ROOTS are folders or files. [default: docs/baselines, ci and receipts, as far as they are there] The JSON files are the truth;
    an index of them in the cache folder is brought up to date by every command, and made again if it is lost. The judge
    reads every new receipt; those it does not accept are listed with its reason and counted nowhere.
    """


@command.command("list")
@history_options
@click.option("--all", "everything", is_flag=True, help="Receipts that do not count, too.")
@json_option
def list_receipts(everything: bool, as_json: bool, **options: Any) -> None:
    """List receipts, the oldest first."""
    rows = _rows(accepted_only=not everything, **options)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table

    from tritium.bench.figures import digits

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("when", "commit", "model", "workload", "machine", "isa", "thr", "tok/s", "MB", "verdict"):
        table.add_column(name, justify="right" if name in ("thr", "tok/s", "MB") else "left", overflow="fold")
    for row in rows:
        commit = row.commit_id[:8] + ("+" if row.is_dirty else "")
        figures = ["" if f is None else digits(f) for f in (row.tokens_per_second, row.rss_mb)]
        table.add_row(
            row.timestamp[:16].replace("T", " "), commit, row.model_name, row.workload.split(" ")[0],
            row.machine, row.isa, str(row.threads or ""), *figures, row.verdict,
        )  # fmt: skip
    # A pipe has no width to fit.
    Console(highlight=False, width=None if sys.stdout.isatty() else 400).print(table)


metric_option = click.option(
    "--metric", type=click.Choice(METRICS), default=METRICS[0], show_default=True, help="The figure to follow."
)


@command.command("trend")
@history_options
@metric_option
@json_option
def show_trends(metric: str, as_json: bool, **options: Any) -> None:
    """Plot the sessions of each key in the terminal, with the changes of their level.

    A session is the receipts of one key and commit without a gap of an hour: its median is one sample. A change has p < 0.001
    and at least 2 %.
    """
    from tritium.bench.history import trends

    found = trends(_rows(accepted_only=True, **options), metric)
    if as_json:
        print_json([_document(trend) for trend in found])
        return
    for trend in found:
        _print(trend)
    if not found:
        note("no accepted receipt with evidence")


def _document(trend: Trend) -> dict[str, Any]:
    return {
        "key": {**asdict(trend.key), "id": trend.key.id},
        "metric": trend.metric,
        "sessions": [
            {"label": s.label, "timestamp": s.rows[0].timestamp, "n": len(s.rows), "median": median}
            for s, median in zip(trend.sessions, trend.medians, strict=True)
        ],
        "changes": [{**asdict(point), "change": point.change} for point in trend.points],
    }


def _print(trend: Trend) -> None:
    """A title, the plot, and a line for each change."""
    from tritium.bench.figures import digits
    from tritium.bench.plot import plot

    click.secho(f"{trend.model_name} {trend.key.workload.split()[0]}", bold=True, nl=False)
    click.echo(f"  {trend.key.machine}, {trend.key.isa}, {trend.key.threads} threads, key {trend.key.id}")
    for line in plot(trend.medians, [point.index for point in trend.points]):
        click.echo(line)
    click.echo(
        f"{'':10}{trend.sessions[0].label} … {trend.sessions[-1].label}: {len(trend.sessions)} sessions, {trend.metric}"
    )
    for point in trend.points:
        is_worse = (point.change > 0) == (trend.metric != "tokens_per_second")
        told = f"{point.change:+.1%} at {trend.sessions[point.index].label}: {digits(point.before)} became {digits(point.after)}"
        click.secho(f"{'':10}{told}, p {point.p:.2g}", fg="red" if is_worse else "green")
    click.echo()


@command.command("report")
@history_options
@metric_option
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The page.")
@json_option
def write_report(metric: str, output: Path, as_json: bool, **options: Any) -> None:
    """Write a page that holds everything: trends, rooflines, kernels, machines. Needs the extra "report"."""
    from tritium.bench.report import render
    from tritium.receipts.files import write_text

    rows = _rows(accepted_only=False, **options)
    write_text(output, render(rows, metric, datetime.now(UTC)))
    if as_json:
        print_json({"path": str(output), "receipts": len(rows)})
    else:
        click.echo(f"{output}: {len(rows)} receipts")
