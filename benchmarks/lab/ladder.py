"""The rungs of the ladder, how fast each is, and how fast it must be."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.lab.bench import Bench, Pass, Point, activation_bytes
from tritium import numerics
from tritium.backends import cpu
from tritium.bench.benchmark import Limits
from tritium.resources import ROOT, read_text

REFERENCE = "reference"
PROBE_BYTES = 256 << 20
REFERENCE_ROWS = 1024
"""The definition in NumPy multiplies this many rows of weights: the rate is what counts, of products that are needed."""

OPEN, NONZERO = 0.2, 0.125
"""What feed-forward blocks with ReLU² need of their rows and columns, about."""

POINTS = (
    *(Point("linear", t, 2560, 6912, is_cold=True) for t in (1, 2, 3, 4, 6, 8, 16)),
    *(Point("linear", t, 2560, 6912) for t in (32, 128, 512)),
    *(Point("linear", t, 6912, 2560) for t in (128, 512)),
    *(Point("linear", t, 2560, 6912, is_cold=t <= 16, weights="tq1") for t in (1, 2, 3, 4, 6, 8, 16, 32, 128, 512)),
    *(Point("linear", t, 2560, 6912, is_cold=t <= 16, weights="i2_s", needed=OPEN) for t in (1, 2, 8, 16, 128, 512)),
    *(
        Point("linear", t, 6912, 2560, is_cold=t <= 16, weights="i2s_columns", needed=NONZERO)
        for t in (1, 2, 8, 16, 128, 512)
    ),
    *(Point(op, 128, k) for op, k in (("rmsnorm_quantize", 2560), ("rmsnorm_quantize", 6912), ("relu2_mul", 6912))),
)
"""Decoding, sequences side by side or speculation, and prefill, in the widths of a model of two billion weights."""

LEAST_PERCENT = {
    ("avx512vnni", "i2s", 8): 82.0,
    ("avx512vnni", "i2s", 32): 90.0,
    ("avx512vnni", "i2s", 128): 90.0,
    ("avx512vnni", "i2s", 512): 88.0,
    ("avx512vnni", "tq1", 8): 82.0,
    ("avx512vnni", "tq1", 32): 88.0,
    ("avx512vnni", "tq1", 128): 87.0,
    ("avx512vnni", "tq1", 512): 86.0,
    ("avx2", "i2s", 8): 73.0,
    ("avx2", "i2s", 32): 106.0,
    ("avx2", "i2s", 128): 104.0,
    ("avx2", "i2s", 512): 105.0,
    ("avx2", "tq1", 8): 63.0,
    ("avx2", "tq1", 32): 108.0,
    ("avx2", "tq1", 128): 105.0,
    ("avx2", "tq1", 512): 105.0,
    ("avx512vnni", "i2_s", 128): 52.0,
    ("avx512vnni", "i2_s", 512): 50.0,
    ("avx512vnni", "i2s_columns", 128): 49.0,
    ("avx512vnni", "i2s_columns", 512): 47.0,
    ("avx2", "i2_s", 128): 38.0,
    ("avx2", "i2_s", 512): 37.0,
    ("avx2", "i2s_columns", 128): 28.0,
    ("avx2", "i2s_columns", 512): 28.0,
}
"""(instruction set, layout, T) → the share of the int8 peak below which a linear with one thread has lost what it had.

Measured on Zen 4 with gcc 12, less a margin of about a tenth: elsewhere products may have to share their units with masks and
shifts. Tables of sums do without products, and exceed the peak of these.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What one rung reached at one point: its best pass, and the least time that its limits allow over that time.

    ``limit_percent`` is None where neither the bytes of weights nor integer products bound the op.
    """

    point: Point
    rung: str
    best: Pass
    limit_percent: float | None

    @property
    def gb_per_s(self) -> float:
        """Weights read, or activations moved where there are none to speak of."""
        return (self.best.bytes if self.point.op == "linear" else activation_bytes(self.point)) / self.best.ns

    @property
    def gmac_per_s(self) -> float:
        """10⁹ multiply-accumulates a second."""
        return self.best.macs / self.best.ns


def limits_of(isas: Sequence[str], n_threads: int) -> dict[str, Limits]:
    """The machine's limits for each instruction set, now."""
    bandwidth = cpu.read_bandwidth(n_threads, PROBE_BYTES)
    return {
        isa: Limits(n_threads, isa, bandwidth, cpu.int8_peak(isa, n_threads), cpu.f32_peak(isa, n_threads))
        for isa in isas
    }


def climb(point: Point, isas: Sequence[str], n_threads: int, budget_s: float) -> Iterable[Row]:
    """The definition, then the kernels of each instruction set, slowest first, each for a share of ``budget_s``.

    The limits are measured before and after the passes of a rung; the higher ones count.
    """
    share = budget_s / (len(isas) + 1)
    if point.op == "linear":
        yield Row(point, REFERENCE, _best_reference(point, share), None)
    for isa in isas:
        bench = Bench(point, isa, n_threads)
        before = limits_of([isa], n_threads)[isa]
        best = _best(bench, share)
        after = limits_of([isa], n_threads)[isa]
        least = min(limits.ns(best.bytes, best.macs) for limits in (before, after))
        yield Row(point, isa, best, 100 * least / best.ns if point.op == "linear" else None)


def _best(bench: Bench, seconds: float) -> Pass:
    """The fastest of at least three passes: others can only slow one down."""
    end = time.monotonic() + seconds
    passes = [bench.run() for _ in range(3)]
    while time.monotonic() < end:
        passes.append(bench.run())
    return min(passes, key=lambda p: p.ns)


def _best_reference(point: Point, seconds: float) -> Pass:
    rng = np.random.default_rng(0)
    q, trits = (
        rng.integers(-127, 128, (point.t, point.k), np.int8),
        rng.integers(-1, 2, (REFERENCE_ROWS, point.k), np.int8),
    )
    scale = np.ones(point.t, np.float32)
    best, end = 1 << 62, time.monotonic() + seconds
    while best == 1 << 62 or time.monotonic() < end:
        start = time.perf_counter_ns()
        numerics.ternary_linear(q, scale, trits, np.array(1, np.float32))
        best = min(best, time.perf_counter_ns() - start)
    return Pass(max(best, 1), int(point.t * point.k * REFERENCE_ROWS * point.needed), trits.size)


def least_percent(point: Point, isa: str) -> float | None:
    """The share of a linear that is known, else None."""
    return LEAST_PERCENT.get((isa, point.weights, point.t)) if point.op == "linear" else None


def is_zen4(root: Path = ROOT) -> bool:
    """Whether this is the processor of the known shares."""
    text = read_text(root / "proc/cpuinfo") or ""
    is_zen3_or_4 = re.search(r"^vendor_id\s*: AuthenticAMD\ncpu family\s*: 25$", text, re.MULTILINE) is not None
    return is_zen3_or_4 and re.search(r"^flags\s*:.*\bavx512_vnni\b", text, re.MULTILINE) is not None


def lost(rows: Iterable[Row], isa: str) -> Iterable[str]:
    """Which of an instruction set's rows are below their share."""
    for row in rows:
        least = least_percent(row.point, isa)
        if row.rung == isa and row.limit_percent is not None and least is not None and row.limit_percent < least:
            yield f"{isa}: {label(row.point)}: {row.limit_percent:.1f} % of the limit, expected at least {least:.0f} %"


def label(point: Point) -> str:
    """An op and its shape."""
    shape = f"{point.k} → {point.n}" if point.n else str(point.k)
    kind = {
        "tq1": ", 1.6 bits",
        "i2_s": f", {100 * point.needed:.3g} % of rows",
        "i2s_columns": f", {100 * point.needed:.3g} % of columns",
    }
    return f"{point.op} {shape}, T = {point.t}{kind.get(point.weights, '')}{', weights from memory' * point.is_cold}"
