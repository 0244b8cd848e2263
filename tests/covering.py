"""Few rows that try every pair of levels: the pairwise part of a matrix of test factors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations, product

Row = dict[str, Hashable]


def all_rows(factors: Mapping[str, Sequence[Hashable]], allowed: Callable[[Row], bool]) -> list[Row]:
    """Every allowed combination of one level a factor, the last factor varying fastest."""
    rows = (dict(zip(factors, levels, strict=True)) for levels in product(*factors.values()))
    return [row for row in rows if allowed(row)]


def pairs(row: Row) -> set[tuple[tuple[str, Hashable], ...]]:
    """All pairs of (factor, level) of a row."""
    return set(combinations(row.items(), 2))


def covering_rows(rows: Sequence[Row]) -> list[Row]:
    """A subset of the rows that holds every pair of levels that any of them holds.

    Greedy: the row with the most pairs that are still missing comes next, of several the first. The same rows for the same
    input; about ln(pairs) times the fewest possible at worst, in practice a few more than the product of the two largest factors.
    """
    held = [pairs(row) for row in rows]
    missing = set().union(*held)
    chosen = []
    while missing:
        best = max(range(len(rows)), key=lambda i: len(held[i] & missing))
        chosen.append(rows[best])
        missing -= held[best]
    return chosen
