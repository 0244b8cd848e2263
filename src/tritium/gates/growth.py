"""E2: a micro-benchmark measures its operation only if its time grows with its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """t = a + b·n by least squares; throughput is reportable where b·n ≥ half of t at the largest size."""
    rows: list[Mapping[str, Any]] = list(facts.data.get("performance_baseline", {}).get("microbenchmarks", ()))
    rows += list((facts.evidence or {}).get("microbenchmarks", ()))
    if not rows:
        yield not_applicable("throughput_growth", "E2", "no micro-benchmark")
        return
    for row in rows:
        if len(row["sizes"]) != len(row["ns"]) or len(set(row["sizes"])) < 2:
            yield check(
                "throughput_growth",
                "E2",
                False,
                len(row["sizes"]),
                "a time for each of two sizes or more",
                row["operation"],
            )
            return
    shares = {row["operation"]: growing_share(row["sizes"], row["ns"]) for row in rows}
    worst = min(shares, key=lambda name: shares[name])
    least = policy.get("physics", "growth_share")
    yield check("throughput_growth", "E2", shares[worst] >= least, shares[worst], f"at least {least:g}",
                f"{worst}: its time does not grow with its size, so a throughput would be that of a launch")  # fmt: skip


def growing_share(sizes: Sequence[int], ns: Sequence[int]) -> float:
    """b·n/t at the largest size, of the least-squares line t = a + b·n with a ≥ 0."""
    n = len(sizes)
    mean_x, mean_y = sum(sizes) / n, sum(ns) / n
    spread = sum((x - mean_x) ** 2 for x in sizes)
    b = sum((x - mean_x) * (y - mean_y) for x, y in zip(sizes, ns, strict=True)) / spread
    largest = max(sizes)
    t = ns[list(sizes).index(largest)]
    return min(b * largest / t, 1.0)
