"""Two flame graphs as one picture: the second one's frames, red where they take longer than in the first, blue where less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tritium.bench.flame import Frame, Stack, tree
from tritium.bench.flame_svg import Paint, Picture, amount, draw
from tritium.errors import ShapeError

ALL = "all"
"""The root of two graphs that begin with different frames."""
_LEAST, _MOST = 0.12, 0.92


@dataclass(frozen=True, slots=True)
class Difference:
    """A frame in both graphs; ``names`` lead to it. 0 where a graph has no such frame."""

    names: tuple[str, ...]
    before_ns: int
    after_ns: int

    @property
    def change_ns(self) -> int:
        """How much longer the second one took."""
        return self.after_ns - self.before_ns


def compare(
    before: Sequence[Stack], after: Sequence[Stack], *, normalize: bool = False
) -> tuple[Frame, list[Difference]]:
    """The second graph, and every frame of either, the largest change first.

    ``normalize`` scales the first graph to the second one's total, so that what shows is a change of share.
    Errors: ShapeError for an empty graph.
    """
    totals = [sum(stack.ns for stack in stacks) for stacks in (before, after)]
    if 0 in totals:
        raise ShapeError("nothing to compare", expected="time in both graphs", got=totals)
    factor = totals[1] / totals[0] if normalize else 1.0
    left, right = _totals(before), _totals(after)
    rows = [Difference(names, round(left.get(names, 0) * factor), right.get(names, 0)) for names in left | right]
    roots = {stack.names[0] for stack in (*before, *after)}
    if len(roots) > 1:
        after = [Stack((ALL, *stack.names), stack.ns) for stack in after]
    root = tree(after, after[0].names[0])
    return root, sorted(rows, key=lambda row: (-abs(row.change_ns), row.names))


def _totals(stacks: Sequence[Stack]) -> dict[tuple[str, ...], int]:
    totals: dict[tuple[str, ...], int] = {}
    for stack in stacks:
        for n in range(1, len(stack.names) + 1):
            totals[stack.names[:n]] = totals.get(stack.names[:n], 0) + stack.ns
    return totals


def picture(root: Frame, rows: Sequence[Difference], around: Picture) -> str:
    """The second graph, painted by the change. What only the first one has is told in the last subtitle."""
    most = max((abs(row.change_ns) for row in rows), default=1) or 1
    gone = sum(row.before_ns for row in _gone(rows))
    subtitles = [*around.subtitles, f"only in the first: {amount(gone, around.unit)}"] if gone else around.subtitles
    legend = [("less", _MOST, "takes less"), ("same", None, "the same"), ("more", _MOST, "takes more"),
              ("more", _LEAST, f"the fuller, the larger the change; at most {amount(most, around.unit)}")]  # fmt: skip
    around = Picture(around.title, subtitles, around.footer, around.unit)
    return draw(root, around, _paint(root, rows, most, around.unit), legend)


def _gone(rows: Sequence[Difference]) -> list[Difference]:
    """Frames of the first graph alone, without those on top of them."""
    gone = {row.names for row in rows if not row.after_ns}
    return [row for row in rows if row.names in gone and row.names[:-1] not in gone]


def _paint(root: Frame, rows: Sequence[Difference], most: int, unit: str) -> Callable[[Frame, Frame], Paint]:
    by_frame: dict[int, Difference] = {}
    known = {row.names: row for row in rows}

    def number(frame: Frame, names: tuple[str, ...]) -> None:
        by_frame[id(frame)] = known[names]
        for child in frame.children.values():
            number(child, (*names, child.name))

    whole = [row for row in rows if len(row.names) == 1]
    if len(whole) == 1:
        number(root, whole[0].names)
    else:
        by_frame[id(root)] = Difference((ALL,), sum(r.before_ns for r in whole), sum(r.after_ns for r in whole))
        for child in root.children.values():
            number(child, (child.name,))

    def paint(frame: Frame, parent: Frame) -> Paint:
        row = by_frame[id(frame)]
        change = row.change_ns
        share = min(abs(change) / most, 1.0)
        detail = f"{amount(row.before_ns, unit)} → {amount(row.after_ns, unit)}\n{_signed(row, unit)}"
        if share < 0.005:
            return Paint("same", None, detail)
        return Paint("more" if change > 0 else "less", _LEAST + (_MOST - _LEAST) * share**0.6, detail)

    return paint


def _signed(row: Difference, unit: str) -> str:
    sign = "+" if row.change_ns > 0 else "−" if row.change_ns < 0 else ""
    text = f"{sign}{amount(abs(row.change_ns), unit)}"
    if not row.before_ns:
        return f"{text}, only in the second"
    return f"{text}, {100 * row.change_ns / row.before_ns:+.1f} %"


def lines(rows: Sequence[Difference], n: int, unit: str = "ns") -> list[str]:
    """The frames that changed most and are no parent of one that changed as much, a line each."""
    chosen: list[Difference] = []
    for row in rows:
        above = any(other.names[: len(row.names)] == row.names and other.change_ns == row.change_ns
                    for other in rows if len(other.names) > len(row.names))  # fmt: skip
        if row.change_ns and not above:
            chosen.append(row)
        if len(chosen) == n:
            break
    return [f"{_signed(row, unit):>28}  {' › '.join(row.names)}" for row in chosen]
