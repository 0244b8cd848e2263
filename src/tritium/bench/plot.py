"""A series in the terminal: dots of Braille, two by four in a character."""

from __future__ import annotations

from collections.abc import Sequence

from tritium.bench.figures import digits

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
LABEL = 10


def plot(values: Sequence[float], cuts: Sequence[int] = (), *, width: int = 64, height: int = 9) -> list[str]:
    """Lines of ``width`` characters behind labels of the axis; ``cuts`` stand as vertical lines before their values.

    The axis spans the values, at least ±2 % of the greatest, so that noise does not fill the screen.
    """
    if not values:
        return []
    top, bottom = max(values), min(values)
    slack = max(0.02 * abs(top) - (top - bottom) / 2, 0.05 * (top - bottom))
    top, bottom = top + slack, bottom - slack
    columns, rows = 2 * width, 4 * height
    grid = [[0] * width for _ in range(height)]
    span = (top - bottom) or 1.0

    def place(index: float) -> int:
        return round((index + 0.5) / len(values) * (columns - 1))

    def light(x: int, y: int) -> None:
        grid[y // 4][x // 2] |= _DOTS[x % 2][y % 4]

    for cut in cuts:
        for y in range(0, rows, 2):
            light(place(cut - 0.5), y)
    for index, value in enumerate(values):
        x, y = place(index), round((top - value) / span * (rows - 1))
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            light(min(x + dx, columns - 1), min(y + dy, rows - 1))
    labels = {0: top, height // 2: (top + bottom) / 2, height - 1: bottom}
    return [
        f"{digits(labels[row]) if row in labels else '':>{LABEL - 2}} │"
        + "".join(chr(0x2800 + dots) for dots in line).rstrip("⠀")
        for row, line in enumerate(grid)
    ]
