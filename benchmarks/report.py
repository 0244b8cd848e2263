"""Tables of a run: limit, ours, peers, ratio, share of the limit; what a token reads; what each op takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tritium.bench.figures import digits
from tritium.bench.stats import Rounds, Summary, ratio, summarize

BANDWIDTH = "read bandwidth GB/s"
PEAK = "int8 peak GMAC/s"
F32_PEAK = "float32 peak GMAC/s"
NEAR = "near product GMAC/s"
BUSY = "CPUs busy with others %"
CONTROL = "control"
QUIET_PERCENT = 10.0
Kind = Literal["decode", "prefill", "batch"]
MACHINE = (BANDWIDTH, PEAK, F32_PEAK, NEAR, BUSY)
NOT_ENGINES = (*MACHINE, CONTROL)


@dataclass(frozen=True, slots=True)
class Load:
    """What one token costs an engine: the bytes that it reads, its products of ternary weights and of attention.

    Of sequences side by side the products of the head's weights are among ``macs_per_token``: each of their tokens needs logits.
    """

    bytes_per_token: float
    macs_per_token: float
    f32_macs_per_token: float


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of work at one number of threads, measured in rounds; speeds in tokens a second.

    The samples of ``CONTROL`` are the first engine once more, at the other end of each round: its ratio to itself is the noise.
    """

    name: str
    kind: Kind
    n_threads: int
    rounds: Rounds
    loads: Mapping[str, Load]
    heads: Mapping[str, str]
    peers: frozenset[str]
    isa: str
    receipts: Mapping[str, str] = field(default_factory=dict)

    def limits(self, name: str) -> list[float] | None:
        """What its cost allows, round by round, in tokens a second; None where the cost of a token is not known.

        Decoding has to read its bytes, a prompt to multiply; sequences side by side have to do both, one beside the other.
        """
        load, samples = self.loads.get(name), self.rounds.samples
        if load is None:
            return None
        reading = [load.bytes_per_token / x / 1e9 for x in samples[BANDWIDTH]]
        multiplying = [load.macs_per_token / x / 1e9 for x in samples[PEAK]]
        seconds = {"decode": reading, "prefill": multiplying, "batch": list(map(max, reading, multiplying))}
        return [1 / x for x in seconds[self.kind]]

    def limit_percent(self, name: str) -> Summary | None:
        """The share of its own limit, round by round."""
        limits = self.limits(name)
        return None if limits is None else _percent(ratio(self.rounds.samples[name], limits))

    def bound_percent(self, name: str) -> Summary | None:
        """Of a prompt: the share of what int8 products and attention's float32 products, one after the other, leave."""
        load, samples = self.loads.get(name), self.rounds.samples
        if load is None or self.kind != "prefill":
            return None
        peaks = zip(samples[PEAK], samples[F32_PEAK], strict=True)
        bounds = [1e9 / (load.macs_per_token / a + load.f32_macs_per_token / b) for a, b in peaks]
        return _percent(ratio(samples[name], bounds))

    def times_faster(self, name: str) -> Summary | None:
        """Ours with the same head over a peer, else with any head; round by round."""
        if name not in self.peers:
            return None
        ours = [other for other in self.heads if other not in self.peers]
        same = [other for other in ours if self.heads[other] == self.heads[name]] or ours
        return ratio(self.rounds.samples[same[0]], self.rounds.samples[name])


def counted(n_threads: int) -> str:
    """So many threads, in words."""
    return f"{n_threads} thread{'s' * (n_threads > 1)}"


def made(rounds: Rounds) -> str:
    """How many rounds were made, in words."""
    aside = f", {rounds.n_set_aside} more set aside" if rounds.n_set_aside else ""
    return f"{rounds.n_rounds} rounds{aside}{', cut short by the budget' if rounds.is_cut else ''}"


def phase_lines(phase: Phase) -> Iterable[str]:
    """A table of one phase."""
    yield f"{phase.name} · {phase.isa} · {counted(phase.n_threads)} · {made(phase.rounds)}"
    for name in MACHINE:
        if name in phase.rounds.samples:
            yield f"  {name:30}{spread(summarize(phase.rounds.samples[name]))}"
    if max(phase.rounds.samples.get(BUSY, [0.0])) > QUIET_PERCENT:
        yield "  NOT QUIET: engines that spin at barriers collapse when others take a CPU; these ratios prove nothing"
    is_prompt = phase.kind == "prefill"
    cost = "GMAC/token" if is_prompt else "MB/token"
    bound = f"{'% with attention':25}" if is_prompt else ""
    yield f"  {'engine, head':30}{cost:>11}{'limit tok/s':>13}  {'tok/s (least–most)':27}{'% of limit':25}{bound}ours / it"
    for name in phase.heads:
        load, limits = phase.loads.get(name), phase.limits(name)
        amount = None if load is None else load.macs_per_token / 1e9 if is_prompt else load.bytes_per_token / 1e6
        with_attention = f"{spread(phase.bound_percent(name)):25}" if is_prompt else ""
        roof = "–" if limits is None else f"{summarize(limits).median:.1f}"
        yield (
            f"  {name:30}{'–' if amount is None else f'{amount:.4g}':>11}{roof:>13}"
            f"  {spread(summarize(phase.rounds.samples[name])):27}{spread(phase.limit_percent(name)):25}{with_attention}"
            f"{spread(phase.times_faster(name))}"
        )
    if CONTROL in phase.rounds.samples:
        first = next(iter(phase.heads))
        noise = ratio(phase.rounds.samples[first], phase.rounds.samples[CONTROL])
        yield f"  A/A control, {first} over itself: {spread(noise)}"


def _percent(share: Summary) -> Summary:
    return Summary(share.n, *(100 * x for x in (share.median, share.mad, share.low, share.high)))


def spread(summary: Summary | None) -> str:
    """The median and the range."""
    if summary is None:
        return "–"
    return f"{digits(summary.median)} ({digits(summary.low)}–{digits(summary.high)})"


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
