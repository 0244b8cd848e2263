"""benchmark kernels and benchmark quantize: single operations by size, with a baseline of the latter."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.bench.micro import Operation, Series

F = TypeVar("F", bound=Callable[..., Any])
BASELINE = Path("ci/bench_quantization_baseline.txt")


def _options(function: F) -> F:
    for option in (
        json_option,
        click.option("--report", type=click.Path(path_type=Path), help="Write everything to this file, as JSON."),
        click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Samples of each figure."),
        click.option(
            "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads of a kernel."
        ),
    ):
        function = option(function)
    return function


@click.command()
@_options
def kernels(threads: int, rounds: int, report: Path | None, as_json: bool) -> None:
    """Time ternary products from 32×32 to 512×512: every instruction set, the scalar kernels, the NumPy reference.

    A kernel's time is the executor's own count, without the call. t = a + b·n is fitted over the sizes, and a throughput is told
    only where b·n is at least half of t: below that it would be that of a call.
    """
    from tritium.bench import micro

    _finish(_measure(micro.kernels(threads), rounds), threads, report, as_json)


@click.command()
@_options
@click.option(
    "--baseline", type=click.Path(path_type=Path), default=BASELINE, show_default=True, help="Compare with this file."
)
@click.option("--write-baseline", is_flag=True, help="Write that file instead.")
@click.option("--check", is_flag=True, help="End with 6 for FAIL and 8 for INCONCLUSIVE.")
@click.pass_context
def quantize(
    context: click.Context, /, threads: int, rounds: int, report: Path | None, as_json: bool, baseline: Path,
    write_baseline: bool, check: bool,
) -> None:  # fmt: skip
    """Time quantization: activations to int8, weights to I2_S and back, I2_S to panels, from 4096 to 65536 elements.

    Figures are compared with the baseline of the same machine, row by row, by the classic policy; but a figure is FAIL only if
    even its best sample is behind the baseline's median, and INCONCLUSIVE otherwise.
    """
    from tritium.bench import micro, micro_baseline
    from tritium.receipts.files import write_text

    every = _measure(micro.quantization(threads), rounds)
    conditions = micro_baseline.conditions(threads)
    verdict = None
    if write_baseline:
        write_text(baseline, micro_baseline.render(every, conditions))
        note(f"baseline {baseline}")
    elif baseline.is_file():
        kept = micro_baseline.parse(baseline.read_text(encoding="utf-8"), str(baseline))
        verdict = micro_baseline.compare(every, conditions, kept)
    else:
        verdict = micro_baseline.absent(str(baseline))
    _finish(every, threads, report, as_json, verdict)
    if check and verdict is not None:
        context.exit(verdict.exit_code)


def _measure(operations: Sequence[Operation], rounds: int) -> list[Series]:
    from tritium.bench.micro import measure

    return [series for operation in operations for series in measure(operation, n_rounds=rounds)]


def _finish(every: Sequence[Series], threads: int, report: Path | None, as_json: bool, verdict: Any = None) -> None:
    """Print, and write what is to be written."""
    from tritium.bench import micro
    from tritium.bench.host import fingerprint

    document: dict[str, Any] = {
        "threads": threads,
        "host": asdict(fingerprint()),
        "series": [micro.as_json(series) for series in every],
        "microbenchmarks": [micro.as_receipt_row(series) for series in every],
    }
    if verdict is not None:
        document["baseline"] = verdict.as_json()
    if report is not None:
        from tritium.receipts.files import write_text

        write_text(report, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        print_json(document)
        return
    for line in micro.lines(every):
        click.echo(line)
    if verdict is not None:
        click.echo(f"\nbaseline: {verdict.word}")
        for reason in verdict.reasons:
            click.echo(f"  {reason}")
