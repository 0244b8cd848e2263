"""Statistics of benchmarks, with a clock that only moves when told to."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium.bench.stats import interleave, percentile, ratio, summarize
from tritium.errors import NumericsError, ShapeError


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns


def test_summary() -> None:
    summary = summarize([3.0, 1.0, 10.0, 2.0])
    assert (summary.n, summary.median, summary.mad, summary.low, summary.high) == (4, 2.5, 1.0, 1.0, 10.0)


def test_one_outlier_moves_neither_median_nor_deviation() -> None:
    assert summarize([5.0, 5.0, 5.0, 5.0, 500.0]).median == 5.0
    assert summarize([5.0, 5.0, 5.0, 5.0, 500.0]).mad == 0.0


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40))
def test_a_summary_is_ordered(samples: list[float]) -> None:
    summary = summarize(samples)
    assert summary.low <= summary.median <= summary.high
    assert 0 <= summary.mad <= summary.high - summary.low


def test_a_drift_that_doubles_both_sides_leaves_the_ratio() -> None:
    ours, theirs = [10.0, 20.0, 5.0], [5.0, 10.0, 2.5]
    assert ratio(ours, theirs) == summarize([2.0, 2.0, 2.0])


def test_a_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(ShapeError, match="rounds of a ratio"):
        ratio([1.0], [1.0, 2.0])
    with pytest.raises(ShapeError, match="round 1"):
        ratio([1.0, 1.0], [1.0, 0.0])


def test_nothing_and_nan_are_no_measurement() -> None:
    with pytest.raises(ShapeError, match="nothing was measured"):
        summarize([])
    with pytest.raises(NumericsError, match="not finite"):
        summarize([1.0, float("nan")])


def test_percentile_is_a_sample() -> None:
    samples = [float(x) for x in range(100, 0, -1)]
    assert [percentile(samples, p) for p in (0, 1, 50, 99, 100)] == [1.0, 1.0, 50.0, 99.0, 100.0]
    assert percentile([7.0], 50) == 7.0
    for wrong in (-1, 101):
        with pytest.raises(ShapeError):
            percentile(samples, wrong)


def test_rounds_run_there_and_back() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    rounds = interleave({n: (lambda n=n: measure(n)) for n in "abc"}, n_rounds=3, budget_ns=1, least=3, clock=Clock())
    assert "".join(order) == "abccbaabc"
    assert rounds.samples == {"a": [1.0, 6.0, 7.0], "b": [2.0, 5.0, 8.0], "c": [3.0, 4.0, 9.0]}
    assert (rounds.n_rounds, rounds.is_cut) == (3, False)


def test_a_steady_drift_cancels_over_two_rounds() -> None:
    """Both take the same work on a machine that slows down with every measurement; ABAB would show a winner."""
    clock = Clock()

    def measure() -> float:
        clock.now_ns += 100
        return float(clock.now_ns)

    rounds = interleave({"a": measure, "b": measure}, n_rounds=4, budget_ns=10**9, clock=clock)
    assert summarize(rounds.samples["a"]).median == summarize(rounds.samples["b"]).median


@pytest.mark.parametrize(("budget_ns", "made"), [(0, 2), (299, 2), (300, 3), (399, 3), (400, 4), (10_000, 5)])
def test_no_round_begins_that_would_not_end_in_time(budget_ns: int, made: int) -> None:
    clock = Clock()

    def measure() -> float:
        clock.now_ns += 100
        return 1.0

    rounds = interleave({"a": measure}, n_rounds=5, budget_ns=budget_ns, least=2, clock=clock)
    assert (rounds.n_rounds, rounds.is_cut, len(rounds.samples["a"])) == (made, made < 5, made)


def test_a_round_that_does_not_count_is_made_once_more_and_takes_nothing_of_the_budget() -> None:
    clock, order = Clock(), []
    verdicts = iter([True, False, False, True, True, False])

    def measure(name: str) -> float:
        order.append(name)
        clock.now_ns += 50
        return float(len(order))

    def counts(found: Mapping[str, float]) -> bool:
        assert sorted(found) == ["a", "b"]
        clock.now_ns += 7  # nor does its own time
        return next(verdicts)

    rounds = interleave(
        {n: (lambda n=n: measure(n)) for n in "ab"}, n_rounds=5, budget_ns=307, counts=counts, clock=clock
    )
    assert "".join(order) == "abbababaab"
    assert rounds.samples == {"a": [1.0, 8.0, 9.0], "b": [2.0, 7.0, 10.0]}
    assert (rounds.n_rounds, rounds.is_cut, rounds.n_set_aside) == (3, True, 2)


def test_what_a_round_waits_takes_nothing_of_the_budget() -> None:
    clock = Clock()

    def move(ns: int) -> float:
        clock.now_ns += ns
        return 1.0

    rounds = interleave({"a": lambda: move(100)}, n_rounds=5, budget_ns=300, ready=lambda: move(1000), clock=clock)
    assert (rounds.n_rounds, rounds.is_cut) == (3, True)


def test_what_a_measurement_raises_is_not_hidden() -> None:
    def fail() -> float:
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        interleave({"a": fail}, n_rounds=1, budget_ns=1)
    with pytest.raises(ShapeError):
        interleave({}, n_rounds=0, budget_ns=1)
