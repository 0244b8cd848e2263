"""Changes of level: against two published implementations and the formula, and how often a steady history is called changed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tritium.bench.change_points import change_points, energy_statistics
from tritium.errors import NumericsError

Levels = list[tuple[float, int]]


def series(seed: int, levels: Levels, noise: float) -> list[float]:
    """So many samples about each level."""
    rng = random.Random(seed)
    return [round(level * (1 + rng.gauss(0, noise)), 4) for level, n in levels for _ in range(n)]


@pytest.mark.parametrize(
    ("seed", "levels", "noise", "published"),
    [
        # Both apache-otava 0.8.0 (p 0.001, least change 0.02) and signal-processing-algorithms 2.1.6 (p 0.01, 200
        # permutations) give these.
        (1, [(20.0, 40)], 0.0266, []),
        (2, [(20.0, 20), (18.0, 20)], 0.0266, [20]),
        (3, [(20.0, 15), (19.0, 15), (21.0, 15)], 0.015, [15, 30]),
        (4, [(20.0, 12), (26.0, 12)], 0.05, [12]),
        (5, [(20.0, 10), (10.0, 1), (20.0, 19)], 0.01, []),
        (7, [(20.0, 25), (18.5, 5)], 0.015, [25]),
    ],
)
def test_equals_published_implementations(seed: int, levels: Levels, noise: float, published: list[int]) -> None:
    assert [point.index for point in change_points(series(seed, levels, noise))] == published


def test_the_statistic_is_its_formula() -> None:
    values = np.array([3.0, 1.0, 2.0, 8.0, 9.0, 7.5])

    def mean(pairs: list[float]) -> float:
        return sum(pairs) / len(pairs) if pairs else 0.0

    def direct(n: int) -> float:
        left, right = values[:n].tolist(), values[n:].tolist()
        across = mean([abs(x - y) for x in left for y in right])
        within = [mean([abs(x - y) for i, x in enumerate(side) for y in side[i + 1 :]]) for side in (left, right)]
        return float(n * (len(values) - n) / len(values) * (2 * across - sum(within)))

    assert energy_statistics(values) == pytest.approx([direct(n) for n in range(1, 6)])
    assert int(np.argmax(energy_statistics(values))) + 1 == 3


def test_a_point_tells_its_levels() -> None:
    (point,) = change_points([20.0, 20.1, 19.9, 20.0, 20.1, 18.0, 18.1, 17.9, 18.0, 18.1])
    assert (point.index, point.before, point.after) == (5, pytest.approx(20.02), pytest.approx(18.02))
    assert point.change == pytest.approx(-0.0999, abs=1e-4)
    assert point.p < 1e-6


def test_a_steady_history_is_seldom_called_changed() -> None:
    n_alarms = sum(bool(change_points(series(seed, [(20.0, 40)], 0.0266))) for seed in range(300))
    assert n_alarms <= 12


def test_a_drift_below_every_gate_is_found() -> None:
    """One percent at each of six releases: no pair of neighbors would fail."""
    levels = [(20.0 * 0.99**i, 8) for i in range(7)]
    points = change_points(series(11, levels, 0.006))
    assert points
    assert all(point.change < 0 for point in points)


def test_a_change_below_the_least_is_none() -> None:
    steps = [20.0, 20.001] * 8 + [20.1, 20.101] * 8
    assert change_points(steps) == ()
    assert [point.index for point in change_points(steps, least_change=0.001)] == [16]


def test_short_and_broken_histories() -> None:
    assert change_points([]) == change_points([1.0]) == change_points([1.0, 2.0]) == ()
    assert change_points([5.0] * 30) == ()
    with pytest.raises(NumericsError, match="not finite"):
        change_points([1.0, float("nan")])
