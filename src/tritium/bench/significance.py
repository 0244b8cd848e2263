"""Tests of significance, exact where that can be had: signed ranks for pairs, Student's t for change points.

Sources: F. Wilcoxon, Individual comparisons by ranking methods (1945); J. Hodges and E. Lehmann, Estimates of location based on
rank tests (1963); M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, combinations_with_replacement

from tritium.errors import NumericsError, ShapeError


@dataclass(frozen=True, slots=True)
class SignedRanks:
    """Wilcoxon's test of n differences against a symmetric distribution about zero; zeros are left out.

    ``p_greater``: how likely ranks of the positive differences sum to this or more by chance; ``p_less``: this or less.
    """

    n: int
    positive: float
    p_greater: float
    p_less: float

    @property
    def p(self) -> float:
        """Of both sides together."""
        return min(1.0, 2 * min(self.p_greater, self.p_less))


def signed_ranks(differences: Sequence[float]) -> SignedRanks:
    """The exact test, ties included: every assignment of signs is as likely as any other.

    Errors: NumericsError for a difference that is not finite.
    """
    if not all(map(math.isfinite, differences)):
        raise NumericsError("a difference is not finite", got=list(differences))
    nonzero = sorted((d for d in differences if d), key=abs)
    doubled = _doubled_ranks([abs(d) for d in nonzero])
    positive = sum(rank for rank, d in zip(doubled, nonzero, strict=True) if d > 0)
    at_most = _at_most(tuple(doubled))
    total = at_most[-1]
    below = at_most[positive - 1] if positive else 0
    return SignedRanks(len(nonzero), positive / 2, (total - below) / total, at_most[positive] / total)


def _doubled_ranks(ascending: Sequence[float]) -> list[int]:
    """Twice the rank of each value, the mean rank for equal ones: an integer."""
    ranks: list[int] = []
    start = 0
    while start < len(ascending):
        end = start
        while end < len(ascending) and ascending[end] == ascending[start]:
            end += 1
        ranks += [start + 1 + end] * (end - start)
        start = end
    return ranks


@lru_cache(maxsize=256)
def _at_most(ranks: tuple[int, ...]) -> list[int]:
    """[s]: how many of the 2ⁿ sets of these ranks sum to s or less.

    The generating function ∏(1 + x^r), evaluated at x = 2^width: one integer whose digits are the counts, none above 2ⁿ.
    """
    width = len(ranks) + 1
    product = 1
    for rank in ranks:
        product += product << rank * width
    mask = (1 << width) - 1
    return list(accumulate(product >> s * width & mask for s in range(sum(ranks) + 1)))


@dataclass(frozen=True, slots=True)
class Shift:
    """Where differences lie: the Hodges-Lehmann estimate, and an interval that covers it with at least ``confidence``."""

    estimate: float
    low: float
    high: float
    confidence: float


def shift(differences: Sequence[float], confidence: float = 0.95) -> Shift:
    """The median of all means of two differences, with the interval that inverts the signed-rank test.

    So few differences that no interval covers enough give an infinite one. Errors: ShapeError without differences.
    """
    if not differences:
        raise ShapeError("nothing was measured", expected="at least one difference")
    n = len(differences)
    walsh = sorted((a + b) / 2 for a, b in combinations_with_replacement(differences, 2))
    at_most = _at_most(tuple(range(1, n + 1)))
    cut = sum(1 for count in at_most if 2 * count <= (1 - confidence) * at_most[-1])
    inside = cut > 0
    low, high = (walsh[cut - 1], walsh[-cut]) if inside else (-math.inf, math.inf)
    return Shift(statistics.median(walsh), low, high, confidence)


def t_test(left: Sequence[float], right: Sequence[float]) -> float:
    """p of Student's test that two samples have one mean, both sides, with pooled variance.

    1 for fewer than three samples together or none on a side; 0 or 1 where neither side varies.
    """
    n, m = len(left), len(right)
    if not n or not m or n + m < 3:
        return 1.0
    difference = statistics.fmean(left) - statistics.fmean(right)
    squares = sum(sum((x - statistics.fmean(side)) ** 2 for x in side) for side in (left, right))
    if squares == 0:
        return float(difference == 0)
    t = abs(difference) / math.sqrt(squares / (n + m - 2) * (1 / n + 1 / m))
    return _student_tails(t, n + m - 2)


def _student_tails(t: float, freedom: int) -> float:
    """P(|T| ≥ t) of Student's distribution with whole degrees of freedom, by its finite series."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 1.0
        for k in range(2, freedom - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = sine * total
    return min(1.0, max(0.0, 1 - inside))
