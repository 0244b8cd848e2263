"""Statistics of timings on a machine that others use: rounds in which everything is measured once, medians, paired ratios.

Times drift by a factor of two within minutes, so what is compared stands in the same round, each round in the reverse order of
the one before (ABBA: a steady drift cancels), and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tritium.errors import NumericsError, ShapeError

Clock = Callable[[], int]
"""Nanoseconds of a steady clock."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of n samples: the median, the median absolute deviation from it, the least and the greatest."""

    n: int
    median: float
    mad: float
    low: float
    high: float


def summarize(samples: Sequence[float]) -> Summary:
    """Errors: ShapeError without samples; NumericsError for one that is not finite."""
    if not samples:
        raise ShapeError("nothing was measured", expected="at least one sample")
    if not all(map(math.isfinite, samples)):
        raise NumericsError("a sample is not finite", got=list(samples))
    middle = statistics.median(samples)
    return Summary(
        len(samples), middle, statistics.median(abs(x - middle) for x in samples), min(samples), max(samples)
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    """The summary of ours / theirs, round by round. Errors: ShapeError for other numbers of rounds or a zero of theirs."""
    if len(ours) != len(theirs):
        raise ShapeError("rounds of a ratio", expected=len(ours), got=len(theirs))
    if 0 in theirs:
        raise ShapeError("a ratio to zero", where=f"round {list(theirs).index(0)}")
    return summarize([a / b for a, b in zip(ours, theirs, strict=True)])


def percentile(samples: Sequence[float], percent: float) -> float:
    """The least sample that at least ``percent`` of all do not exceed (nearest rank).

    Errors: ShapeError without samples or for a percentage outside 0 … 100.
    """
    if not samples or not 0 <= percent <= 100:
        raise ShapeError("percentile", expected="samples and 0 to 100", got=f"{len(samples)} samples, {percent}")
    return sorted(samples)[max(math.ceil(percent / 100 * len(samples)), 1) - 1]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Raw samples by name, one a round; all of one length. ``is_cut``: the time ran out before all rounds were made.

    ``n_set_aside`` more were made that did not count.
    """

    samples: dict[str, list[float]]
    n_rounds: int
    is_cut: bool
    n_set_aside: int = 0


def interleave(
    measurements: Mapping[str, Callable[[], float]], *, n_rounds: int, budget_ns: int, least: int = 1,
    ready: Callable[[], object] | None = None, counts: Callable[[Mapping[str, float]], bool] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Rounds:  # fmt: skip
    """Take every measurement once a round, in the given order and in its reverse by turns.

    A further round begins only if the longest so far would still end within ``budget_ns``; ``least`` rounds are made regardless.
    ``ready`` may wait before each round, and one of whose samples ``counts`` says no is made once more: neither takes anything of
    the budget, so both have to come to an end by themselves.
    What a measurement raises ends all. Errors: ShapeError for no rounds.
    """
    if not 1 <= least <= n_rounds:
        raise ShapeError("rounds", expected=f"1 to {n_rounds} at least", got=least)
    samples: dict[str, list[float]] = {name: [] for name in measurements}
    start = clock()
    longest = done = set_aside = 0
    while done < n_rounds and (done < least or clock() - start + longest <= budget_ns):
        before = clock()
        if ready is not None:
            ready()
        begun = clock()
        found = {name: measurements[name]() for name in list(measurements)[:: 1 if done % 2 == 0 else -1]}
        ended = clock()
        if counts is not None and not counts(found):
            set_aside += 1
            start += clock() - before
            continue
        start += clock() - ended + begun - before
        longest = max(longest, ended - begun)
        for name, sample in found.items():
            samples[name].append(sample)
        done += 1
    return Rounds(samples, done, done < n_rounds, set_aside)
