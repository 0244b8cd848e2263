"""Climb the kernel ladder: one op standing alone, from its definition to the best kernel that runs here.

Every rung is code that ships: the definition in NumPy (``tritium.numerics``), then the kernels of each instruction set of this
machine, the plain ones first, run by the native executor in a plan of one op. New designs take their turn under a kernel's own
name in ``csrc/isa``; what loses is not kept. The printed columns:

    GMAC/s   needed multiply-accumulates;  GB/s  bytes of weights read (of activations moved, where an op has hardly any weights)
    % limit  the least time that the bytes need at the measured read bandwidth, or the products at the measured peak of int8
             products of the same instruction set, whichever is longer, over the time taken;  ×  over the rung below

The limits are measured around each rung, and the best pass counts: on a machine that others use too, a pass can only be slowed
down. Points with few rows read their weights from memory, as decoding does; bandwidth drifts by a factor of two within minutes,
so only rows with many tokens are steady. Reading a kernel: on x86-64 ``objdump -d build/native/**/avx2.cpp.o`` must show no store
of an accumulator inside a hot loop; gcc 12 keeps arrays of vectors in memory, and renames sums until registers run out.

``--check`` climbs with one thread only the points whose share of the int8 peak is known, on Zen 4, with every instruction set.
Those below their share take their turn again, later; it exits with 1 if one has never reached it. ``make bench`` ends with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from benchmarks.lab.ladder import POINTS, Row, climb, is_zen4, label, least_percent, limits_of, lost
from tritium.backends import cpu

POINT_S = 1.2
CHECK_S = 0.6
ROUNDS = 6
"""How often a point may be climbed: others can slow a kernel down for seconds, but not speed it up."""


def table(rows: Sequence[Row]) -> Iterable[str]:
    """One point's rungs."""
    yield label(rows[0].point)
    below: Row | None = None
    for row in rows:
        percent = "–" if row.limit_percent is None else f"{row.limit_percent:.1f}"
        rate = row.gmac_per_s or row.gb_per_s
        times = "–" if below is None else f"{rate / (below.gmac_per_s or below.gb_per_s):.2f}"
        yield f"  {row.rung:12}{row.gmac_per_s:10.1f} GMAC/s{row.gb_per_s:9.2f} GB/s{percent:>8} % of limit{times:>8} ×"
        below = row


def check(isas: Sequence[str]) -> list[str]:
    """Climb the points with a known share, then those below it again; print all of them and return what the last round lost."""
    left = [(isa, point) for isa in isas for point in POINTS if least_percent(point, isa) is not None]
    failures: list[str] = []
    for _ in range(ROUNDS):
        failures, climbed, left = [], left, []
        for isa, point in climbed:
            rows = [row for row in climb(point, [isa], 1, CHECK_S) if row.rung == isa]
            print(f"{isa:12}{label(point):66}{rows[0].limit_percent:6.1f} % of limit", flush=True)
            if below := list(lost(rows, isa)):
                failures += below
                left.append((isa, point))
    return failures


def main() -> int:
    """Climb or check."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--op", help="only points of this op")
    parser.add_argument("--t", type=int, help="only points of this many rows")
    parser.add_argument("--check", action="store_true", help="exit 1 if a kernel is below its share of the peak")
    given = parser.parse_args()
    isas = tuple(reversed(cpu.isas()))
    if given.check and not is_zen4():
        print("not checked: shares of the peak are known of Zen 4 only")
        return 0
    if given.check:
        failures = check(isas)
        for failure in failures:
            print(f"FAILED: {failure}")
        return 1 if failures else 0
    for limits in limits_of(isas, given.threads).values():
        print(
            f"{limits.isa}: {limits.int8_peak_gmac_per_s:.0f} GMAC/s, read {limits.read_bandwidth_gb_per_s:.1f} GB/s, "
            f"{given.threads} thread{'s' * (given.threads > 1)}"
        )
    for point in POINTS:
        if given.op in (None, point.op) and given.t in (None, point.t):
            print("\n".join(table(list(climb(point, isas, given.threads, POINT_S)))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
