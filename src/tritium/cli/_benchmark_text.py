"""The benchmark's figures as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritium.bench.benchmark import Benchmark
    from tritium.bench.op_table import OpRow
    from tritium.bench.sparsity import Sparsity
    from tritium.bench.stats import Summary


def lines(result: Benchmark, receipt: Mapping[str, Any], path: Path) -> Iterable[str]:
    """The figures, the table of ops, and where the receipt is."""
    for name, text in _figures(result):
        yield f"{name:16}{text}"
    yield ""
    yield from _table(result.ops)
    speed = receipt["tokens_per_second"]
    facts = [f"schema {receipt['schema_version']}", receipt["compute_path"], receipt["backend"]]
    facts += ["no rate" if speed is None else f"{speed:.4g} tok/s", f"{len(receipt['kernels'])} kernels"]
    facts += ["deterministic" if receipt["deterministic"] else "not shown to be deterministic"]
    yield ""
    yield f"receipt         {path}: {', '.join(facts)}"


def _spread(summary: Summary, unit: str) -> str:
    return f"{summary.median:.4g} {unit} ({summary.low:.4g}–{summary.high:.4g})"


def _figures(result: Benchmark) -> Iterable[tuple[str, str]]:
    from tritium.bench.stats import summarize

    limits = result.limits
    if limits:
        bandwidth = summarize([limit.read_bandwidth_gb_per_s for limit in limits])
        peak = summarize([limit.int8_peak_gmac_per_s for limit in limits])
        yield "bandwidth", f"{_spread(bandwidth, 'GB/s')} read by {limits[0].n_threads} threads"
        yield "int8 peak", f"{_spread(peak, 'GMAC/s')} with {limits[0].isa}"
        yield "f32 peak", _spread(summarize([limit.f32_peak_gmac_per_s for limit in limits]), "GMAC/s")
    else:
        yield "limits", "NOT MEASURED: they are the native core's"
    yield "load", f"{result.load_s:.3g} s"
    if result.warmup_s is None:
        yield "warm-up", "none"
    else:
        yield "warm-up", f"{result.warmup_s:.3g} s of {result.warmup_tokens} tokens"
    if result.n_sequences > 1:
        yield "batch", f"{result.n_sequences} sequences together; tokens and speeds are of all"
    yield "prefill", f"{result.prefill_s.median * 1e3:.4g} ms of {result.prompt_tokens} tokens"
    yield "", _spread(result.prefill_tokens_per_s, "tok/s")
    if result.prefill_limit_percent is not None:
        yield "", _spread(result.prefill_limit_percent, "% of the int8 peak")
    if result.prefill_bound_percent is not None:
        yield "", _spread(result.prefill_bound_percent, "% of the bound by int8 and attention's f32 products")
    yield "decode", f"{_spread(result.decode_tokens_per_s, 'tok/s')} of {result.tokens} tokens"
    if result.decode_limit_percent is not None:
        rate = _spread(result.decode_gb_per_s, "GB/s")
        yield "", f"{_spread(result.decode_limit_percent, '% of the bandwidth')}, {rate}"
    yield "a token", ", ".join(f"{name} {ms:.4g} ms" for name, ms in result.token_ms_percentiles.items())
    parts = ", ".join(f"{part} {n / 1e6:.4g} MB" for part, n in result.bytes_by_part.items())
    yield "bytes a token", f"{result.bytes_per_token / 1e6:.4g} MB: {parts}"
    if result.ffn_sparsity is not None:
        yield from _zeros(result.ffn_sparsity)
    if result.joules_per_token is None:
        yield "energy", f"NOT MEASURED: {result.energy_why_not}"
    else:
        yield "energy", f"{_spread(result.joules_per_token, 'J')} a token of prompt and output"
    yield "memory", _memory(result)


def _zeros(zeros: Sparsity) -> Iterable[tuple[str, str]]:
    """What was left out of ffn_up and of ffn_down, whole and layer by layer."""
    kinds = (
        ("zero gates", zeros.zero_gates, zeros.zero_gates_by_layer),
        ("zero codes", zeros.zero_codes, zeros.zero_codes_by_layer),
    )
    for name, share, layers in kinds:
        if share is not None:
            yield name, f"{100 * share:.1f} %; by layer " + " ".join(f"{100 * layer:.0f}" for layer in layers)


def _memory(result: Benchmark) -> str:
    held = result.memory
    parts = (
        ("anonymous at its peak", result.peak_anonymous_bytes),
        ("anonymous", held.anonymous_bytes),
        ("file-backed", held.file_backed_bytes),
    )
    apart = ", ".join(f"{n / 1e6:.0f} MB {name}" for name, n in parts if n is not None)
    return f"peak {held.peak_bytes / 1e6:.0f} MB" + (f"; {apart}" if apart else "")


def _table(rows: tuple[OpRow, ...]) -> Iterable[str]:
    yield f"{'op of a decoded token':24}{'kernel':34}{'µs':>9}{'MB':>9}{'GB/s':>8}{'GMAC/s':>8}{'% limit':>9}"
    for row in rows:
        limit = "" if row.limit_percent is None else f"{row.limit_percent:.1f}"
        yield (
            f"{row.op:24}{row.kernel:34}{row.us_per_token:9.1f}{row.bytes_per_token / 1e6:9.3f}{row.gb_per_s:8.2f}"
            f"{row.gmac_per_s:8.1f}{limit:>9}"
        )
