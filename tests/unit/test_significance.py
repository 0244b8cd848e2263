"""Exact tests: against every assignment of signs, and against figures of other programs."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.bench.significance import shift, signed_ranks, t_test
from tritium.errors import NumericsError, ShapeError


def enumerated(differences: list[float]) -> tuple[float, float]:
    """p of both sides by trying all signs."""
    nonzero = [d for d in differences if d]
    sizes = sorted(abs(d) for d in nonzero)
    rank = {size: sum(i + 1 for i, s in enumerate(sizes) if s == size) / sizes.count(size) for size in sizes}
    seen = sum(rank[abs(d)] for d in nonzero if d > 0)
    sums = [
        sum(rank[abs(d)] for d, sign in zip(nonzero, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(nonzero))
    ]
    return sum(s >= seen for s in sums) / len(sums), sum(s <= seen for s in sums) / len(sums)


@given(st.lists(st.integers(-4, 4).map(float), max_size=9))
def test_signed_ranks_equal_an_enumeration(differences: list[float]) -> None:
    ranks = signed_ranks(differences)
    assert (ranks.p_greater, ranks.p_less) == pytest.approx(enumerated(differences), rel=1e-12)


def test_ten_of_ten_is_one_in_1024() -> None:
    ranks = signed_ranks([0.01 * i for i in range(1, 11)])
    assert (ranks.n, ranks.positive, ranks.p_greater, ranks.p) == (10, 55.0, 1 / 1024, 2 / 1024)


def test_signed_ranks_of_nothing_tell_nothing() -> None:
    assert signed_ranks([]).p == signed_ranks([0.0, 0.0]).p == 1.0
    with pytest.raises(NumericsError, match="not finite"):
        signed_ranks([1.0, math.inf])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_the_interval_holds_its_estimate(differences: list[float]) -> None:
    found = shift(differences)
    assert found.low <= found.estimate <= found.high
    assert min(differences) <= found.estimate <= max(differences)


def test_the_interval_of_ten() -> None:
    """By hand: 55 means of two, and the 9th smallest (P(W ≤ 8) = 25/1024 = 0.0244 on either side) is the bound."""
    found = shift([float(i) for i in range(1, 11)])
    means = sorted((a + b) / 2 for a in range(1, 11) for b in range(a, 11))
    assert (found.low, found.estimate, found.high) == (means[8], 5.5, means[-9])
    assert shift([1.0, 2.0, 3.0]).high == math.inf
    with pytest.raises(ShapeError, match="nothing was measured"):
        shift([])


@pytest.mark.parametrize(
    ("left", "right", "p"),
    [  # scipy 1.17.1, stats.ttest_ind
        ([20.1, 19.8, 20.3], [19.0, 19.4, 18.9, 19.2], 0.003284697495745414),
        ([1.0], [2.0, 3.0], 0.3333333333333333),
        ([5.0, 6.0], [5.5, 7.5], 0.46547751617515126),
        ([float(i) for i in range(12)], [float(i) + 0.5 for i in range(9)], 0.49620647476279633),
    ],
)
def test_t_test_equals_another_program(left: list[float], right: list[float], p: float) -> None:
    assert t_test(left, right) == pytest.approx(p, rel=1e-9)


def test_t_test_without_variance_or_samples() -> None:
    assert t_test([1.0, 1.0], [1.0]) == 1.0
    assert t_test([1.0, 1.0], [2.0, 2.0]) == 0.0
    assert t_test([1.0], [2.0]) == t_test([], [1.0, 2.0, 3.0]) == 1.0
