"""Where a history of figures changed its level: E-divisive splits, Student's t-test judges, weak splits are merged again.

A segment is cut where the energy distance between its two parts is greatest, as long as the parts' means differ significantly;
then the weakest cut is taken back until every one holds by itself. A slow drift, too small for any gate between two
commits, is found this way once it adds up.

Sources: D. Matteson and N. James, A nonparametric approach for multiple change point analysis of multivariate data (2014);
M. Fleming et al., Hunter: using change point detection to hunt for performance regressions (2023).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tritium.bench.significance import t_test
from tritium.errors import NumericsError
from tritium.numerics import F64

MAX_P = 0.001
LEAST_CHANGE = 0.02
FIRST_PASS = 10.0
"""Cuts that are this much weaker than ``max_p`` are made at first: what hides them may be taken back later."""


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """``index``: the first sample of the later level; means of the levels before and after; p of their equality."""

    index: int
    before: float
    after: float
    p: float

    @property
    def change(self) -> float:
        """Relative change of the mean, −0.03 being three percent less; 0 where it was 0 before."""
        return self.after / self.before - 1 if self.before else 0.0


def change_points(
    samples: Sequence[float], *, max_p: float = MAX_P, least_change: float = LEAST_CHANGE
) -> tuple[ChangePoint, ...]:
    """The changes of level in a series, in its order.

    A change has p < ``max_p`` and is at least ``least_change`` of the smaller of the two means. Samples have to be independent:
    repeats inside one session share that session's noise, so a session is one sample (its median).
    Errors: NumericsError for a sample that is not finite.
    """
    values = np.asarray(samples, dtype=np.float64)
    if not np.isfinite(values).all():
        raise NumericsError("a sample is not finite", got=list(samples))
    cuts = _split(values, min(FIRST_PASS * max_p, 0.5))
    while cuts:
        points = _describe(samples, cuts)
        weakest = max(points, key=lambda point: point.p)
        if weakest.p < max_p:
            weakest = min(points, key=_magnitude)
            if _magnitude(weakest) >= least_change:
                return tuple(points)
        cuts.remove(weakest.index)
    return ()


def energy_statistics(values: F64) -> F64:
    """nm/(n+m) · (2·mean|x−y| − mean|x−x′| − mean|y−y′|) of the first n values against the other m, for n = 1 … len − 1.

    Means within a part are over its pairs of different values; a part of one value has none and counts as 0.
    Shapes: values (N,) f64 → (N − 1,) f64; O(N²) time and memory.
    """
    n_all = len(values)
    distances = np.abs(values[:, None] - values[None, :])
    left = np.cumsum(np.tril(distances).sum(axis=1))[:-1]
    right = np.cumsum(np.triu(distances).sum(axis=1)[::-1])[::-1][1:]
    across = distances.sum() / 2 - left - right
    n = np.arange(1, n_all, dtype=np.float64)
    m = n_all - n
    within_left = left / np.maximum(n * (n - 1) / 2, 1)
    within_right = right / np.maximum(m * (m - 1) / 2, 1)
    statistic: F64 = n * m / n_all * (2 * across / (n * m) - within_left - within_right)
    return statistic


def _split(values: F64, max_p: float) -> list[int]:
    """Cut the segment whose best cut is the best of all, while that cut is significant."""
    cuts: list[int] = []
    best: dict[tuple[int, int], tuple[float, int]] = {}
    while True:
        for start, end in pairwise([0, *cuts, len(values)]):
            if (start, end) not in best and end - start > 1:
                statistics_here = energy_statistics(values[start:end])
                at = int(np.argmax(statistics_here))
                best[start, end] = float(statistics_here[at]), start + 1 + at
        segments = [segment for segment in pairwise([0, *cuts, len(values)]) if segment in best]
        if not segments:
            return cuts
        start, end = max(segments, key=lambda segment: best[segment][0])
        at = best[start, end][1]
        if t_test(values[start:at].tolist(), values[at:end].tolist()) > max_p:
            return cuts
        cuts = sorted([*cuts, at])


def _describe(samples: Sequence[float], cuts: Sequence[int]) -> list[ChangePoint]:
    """Each cut with the two levels beside it."""
    points = []
    for start, at, end in zip([0, *cuts[:-1]], cuts, [*cuts[1:], len(samples)], strict=True):
        left, right = samples[start:at], samples[at:end]
        points.append(ChangePoint(at, statistics.fmean(left), statistics.fmean(right), t_test(left, right)))
    return points


def _magnitude(point: ChangePoint) -> float:
    least = min(abs(point.before), abs(point.after))
    return abs(point.after - point.before) / least if least else float("inf")
