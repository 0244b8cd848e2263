"""Tables of a run: limit, ours, peers, ratio, share of the limit; what a token reads; what each op takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritium.bench.stats import Rounds, Summary, ratio, summarize

BANDWIDTH = "read bandwidth GB/s"
PEAK = "int8 peak GMAC/s"
F32_PEAK = "float32 peak GMAC/s"
BUSY = "CPUs busy with others %"
CONTROL = "control"
QUIET_PERCENT = 10.0
NOT_ENGINES = (BANDWIDTH, PEAK, F32_PEAK, BUSY, CONTROL)


@dataclass(frozen=True, slots=True)
class Load:
    """What one token costs an engine at least: the bytes that it reads, or a prompt's products, ternary and attention's."""

    bytes_per_token: float
    macs_per_token: float
    f32_macs_per_token: float


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of work at one number of threads, measured in rounds; speeds in tokens a second.

    The samples of ``CONTROL`` are the first engine once more, at the other end of each round: its ratio to itself is the noise.
    """

    name: str
    is_decode: bool
    n_threads: int
    rounds: Rounds
    loads: Mapping[str, Load]
    heads: Mapping[str, str]
    peers: frozenset[str]

    def limit_percent(self, name: str) -> Summary | None:
        """The share of its own limit, round by round; None where the cost of a token is not known."""
        load, samples = self.loads.get(name), self.rounds.samples
        if load is None:
            return None
        cost = load.bytes_per_token if self.is_decode else load.macs_per_token
        limits = [1e9 * x / cost for x in samples[BANDWIDTH if self.is_decode else PEAK]]
        share = ratio(samples[name], limits)
        return Summary(share.n, *(100 * x for x in (share.median, share.mad, share.low, share.high)))

    def bound_percent(self, name: str) -> Summary | None:
        """Of a prompt: the share of what int8 products and attention's float32 products, one after the other, leave."""
        load, samples = self.loads.get(name), self.rounds.samples
        if load is None or self.is_decode:
            return None
        peaks = zip(samples[PEAK], samples[F32_PEAK], strict=True)
        share = ratio(samples[name], [1e9 / (load.macs_per_token / a + load.f32_macs_per_token / b) for a, b in peaks])
        return Summary(share.n, *(100 * x for x in (share.median, share.mad, share.low, share.high)))

    def times_faster(self, name: str) -> Summary | None:
        """Ours with the same head over a peer, else with any head; round by round."""
        if name not in self.peers:
            return None
        ours = [other for other in self.heads if other not in self.peers]
        same = [other for other in ours if self.heads[other] == self.heads[name]] or ours
        return ratio(self.rounds.samples[same[0]], self.rounds.samples[name])


def phase_lines(phase: Phase) -> Iterable[str]:
    """A table of one phase."""
    cut = ", cut short by the budget" if phase.rounds.is_cut else ""
    yield f"{phase.name} · {phase.n_threads} thread{'s' * (phase.n_threads > 1)} · {phase.rounds.n_rounds} rounds{cut}"
    for name in (BANDWIDTH, PEAK, F32_PEAK, BUSY):
        if name in phase.rounds.samples:
            yield f"  {name:30}{_spread(summarize(phase.rounds.samples[name]))}"
    if max(phase.rounds.samples.get(BUSY, [0.0])) > QUIET_PERCENT:
        yield "  NOT QUIET: engines that spin at barriers collapse when others take a CPU; these ratios prove nothing"
    cost = "MB/token" if phase.is_decode else "GMAC/token"
    bound = "" if phase.is_decode else f"{'% with attention':25}"
    yield f"  {'engine, head':30}{cost:>11}{'limit tok/s':>13}  {'tok/s (least–most)':27}{'% of limit':25}{bound}ours / it"
    limits = summarize(phase.rounds.samples[BANDWIDTH if phase.is_decode else PEAK]).median
    for name in phase.heads:
        load, percent, times = phase.loads.get(name), phase.limit_percent(name), phase.times_faster(name)
        amount = None if load is None else load.bytes_per_token / 1e6 if phase.is_decode else load.macs_per_token / 1e9
        with_attention = "" if phase.is_decode else f"{_spread(phase.bound_percent(name)):25}"
        roof = "–" if amount is None else f"{limits * (1e3 if phase.is_decode else 1) / amount:.1f}"
        yield (
            f"  {name:30}{'–' if amount is None else f'{amount:.4g}':>11}{roof:>13}"
            f"  {_spread(summarize(phase.rounds.samples[name])):27}{_spread(percent):25}{with_attention}{_spread(times)}"
        )
    if CONTROL in phase.rounds.samples:
        first = next(iter(phase.heads))
        noise = ratio(phase.rounds.samples[first], phase.rounds.samples[CONTROL])
        yield f"  A/A control, {first} over itself: {_spread(noise)}"


def _spread(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    return f"{_digits(summary.median)} ({_digits(summary.low)}–{_digits(summary.high)})"


def _digits(x: float) -> str:
    return f"{x:.0f}" if x >= 1000 else f"{x:.4g}"


def op_lines(title: str, rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """A table of ops, as ``tritium.bench.benchmark.OpRow`` by name; those below a hundredth of the time are one row."""
    yield title
    yield f"  {'op':24}{'kernel':34}{'µs/token':>10}{'time %':>8}{'MB/token':>10}{'GB/s':>8}{'GMAC/s':>8}{'% of limit':>12}"
    total = sum(row["us_per_token"] for row in rows)
    rest = 0.0
    for row in rows:
        spent, limit = row["us_per_token"], row["limit_percent"]
        if spent < total / 100:
            rest += spent
            continue
        yield (
            f"  {row['op']:24}{row['kernel']:34}{spent:10.1f}{100 * spent / total:8.1f}{row['bytes_per_token'] / 1e6:10.3f}"
            f"{row['gb_per_s']:8.2f}{row['gmac_per_s']:8.1f}{'–' if limit is None else f'{limit:.1f}':>12}"
        )
    yield f"  {'all others':58}{rest:10.1f}{100 * rest / total:8.1f}"


def budget_lines(name: str, ops: Mapping[str, Any]) -> Iterable[str]:
    """What a decoded token reads and skips, and what it spends outside the executor."""
    parts, limits = ops["bytes_by_part"], ops["limits"]
    total = sum(parts.values())
    skipped = sum(row["macs_skipped_per_token"] for row in ops["decode"])
    done = sum(row["macs_per_token"] for row in ops["decode"])
    yield f"a decoded token · {name}: {total / 1e6:.4g} MB"
    yield "  " + ", ".join(f"{part} {n / 1e6:.4g} MB ({100 * n / total:.3g} %)" for part, n in parts.items())
    yield f"  {done / 1e6:.5g} M products, {skipped / 1e6:.4g} M skipped ({100 * skipped / (done + skipped):.3g} %)"
    yield f"  {ops['outside_executor_us']:.0f} µs outside the executor: sampler and Python"
    speeds = limits["read_bandwidth_gb_per_s"], limits["int8_peak_gmac_per_s"], limits["f32_peak_gmac_per_s"]
    beside = f"{speeds[0]:.4g} GB/s, {speeds[1]:.4g} GMAC/s of int8, {speeds[2]:.4g} of float32"
    yield f"  limits beside: {beside}; caches may exceed them"
