"""Measure a model's speed here, beside what the machine can reach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tritium.cli import json_option, note, print_json

if TYPE_CHECKING:
    from tritium.bench.benchmark import Benchmark, OpRow
    from tritium.bench.stats import Summary
    from tritium.engine.model import Model


@click.command(short_help=__doc__)
@click.option("-m", "--model", default="demo", show_default=True, help='A GGUF file, or "demo".')
@click.option("--tokens", type=click.IntRange(2), default=64, show_default=True, help="Tokens to generate.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, show_default=True, help="Tokens of the prompt.")
@click.option(
    "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs that count, after one that does not."
)
@click.option("--threads", type=int, help="Threads of the native core. [default: TRITIUM_THREADS, else one a core]")
@click.option("-o", "--output", type=Path, help="Write the JSON document to this file, too.")
@click.option(
    "--i2s-layout", default="128", show_default=True, help="Block order of I2_S in the file: 128, 64 or 4row."
)
@json_option
def command(
    model: str, tokens: int, prompt_tokens: int, repeats: int, threads: int | None, output: Path | None, i2s_layout: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Load MODEL, run a prompt of fixed pseudo-random tokens and generate greedily; print medians, spread, and limits.

    Loading, prefill (up to the first token) and decoding (from token to token) are timed apart. Before each repeat the machine's
    read bandwidth and its peak of int8 products are measured with as many threads: the limits of decoding and of prefill.
    """
    from tritium.bench.benchmark import benchmark
    from tritium.bench.machine import read_machine
    from tritium.engine.model import load

    opened: dict[str, Any] = {}

    def open_model() -> Model:
        loaded = load(
            model, threads=threads, max_context=prompt_tokens + tokens, prefix_cache=False, i2s_layout=i2s_layout
        )
        for line in loaded.tokenizer.notes:
            note(line)
        opened.update(model=str(loaded.path), threads=loaded.n_threads, backend=loaded.plan.backend)
        opened.update(graph_hash=loaded.graph_hash, plan_hash=loaded.plan_hash)
        return loaded

    result = benchmark(open_model, prompt_tokens=prompt_tokens, tokens=tokens, repeats=repeats)
    machine = asdict(read_machine())
    del machine["flags"]
    document = {**opened, "machine": machine, **asdict(result)}
    if output is not None:
        output.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
        return
    for name, text in _lines(result):
        click.echo(f"{name:16}{text}")
    click.echo()
    for line in _table(result.ops):
        click.echo(line)


def _spread(summary: Summary, unit: str) -> str:
    return f"{summary.median:.4g} {unit} ({summary.low:.4g}–{summary.high:.4g})"


def _lines(result: Benchmark) -> list[tuple[str, str]]:
    from tritium.bench.stats import summarize

    limits = result.limits
    bandwidth = summarize([limit.read_bandwidth_gb_per_s for limit in limits])
    peak = summarize([limit.int8_peak_gmac_per_s for limit in limits])
    held = result.memory
    apart = ", ".join(
        f"{n / 1e6:.0f} MB {name}"
        for name, n in (("anonymous", held.anonymous_bytes), ("file-backed", held.file_backed_bytes))
        if n is not None
    )
    return [
        ("bandwidth", f"{_spread(bandwidth, 'GB/s')} read by {limits[0].n_threads} threads"),
        ("int8 peak", f"{_spread(peak, 'GMAC/s')} with {limits[0].isa}"),
        ("load", f"{result.load_s:.3g} s"),
        ("prefill", f"{_spread(result.prefill_tokens_per_s, 'tok/s')} of {result.prompt_tokens} tokens"),
        ("", _spread(result.prefill_limit_percent, "% of the int8 peak")),
        ("decode", f"{_spread(result.decode_tokens_per_s, 'tok/s')} of {result.tokens} tokens"),
        (
            "",
            f"{_spread(result.decode_limit_percent, '% of the bandwidth')}, {_spread(result.decode_gb_per_s, 'GB/s')}",
        ),
        ("a token", ", ".join(f"{name} {ms:.4g} ms" for name, ms in result.token_ms_percentiles.items())),
        ("bytes a token", f"{result.bytes_per_token / 1e6:.4g} MB: " + _budget(result.bytes_by_part)),
        ("memory", f"peak {held.peak_bytes / 1e6:.0f} MB" + (f"; at the end {apart}" if apart else "")),
    ]


def _budget(parts: Mapping[Any, float]) -> str:
    return ", ".join(f"{part} {n / 1e6:.4g} MB" for part, n in parts.items())


def _table(rows: tuple[OpRow, ...]) -> list[str]:
    lines = [f"{'op of a decoded token':24}{'kernel':34}{'µs':>9}{'MB':>9}{'GB/s':>8}{'GMAC/s':>8}{'% limit':>9}"]
    for row in rows:
        limit = "" if row.limit_percent is None else f"{row.limit_percent:.1f}"
        lines.append(
            f"{row.op:24}{row.kernel:34}{row.us_per_token:9.1f}{row.bytes_per_token / 1e6:9.3f}{row.gb_per_s:8.2f}"
            f"{row.gmac_per_s:8.1f}{limit:>9}"
        )
    return lines
