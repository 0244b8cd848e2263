"""Charts as SVG for the page of a report: text stays text, colors are the page's own, so that light and dark both fit.

Matplotlib draws with stand-in colors that are replaced by the page's custom properties (``var(--ink)`` and so on).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tritium.bench.figures import digits
from tritium.bench.history import Trend

COLORS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--grid)",
    "#040404": "var(--series)",
    "#050505": "var(--worse)",
    "#060606": "var(--better)",
    "#070707": "var(--limit)",
    "#080808": "var(--surface)",
}
INK, MUTED, GRID, SERIES, WORSE, BETTER, LIMIT, SURFACE = COLORS
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tritium",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}
LESS_IS_BETTER = {"prefill_ms", "cpu_ms_per_token", "rss_mb"}
NAMES = {
    "tokens_per_second": "decoded tokens a second",
    "prefill_ms": "ms to the first token",
    "cpu_ms_per_token": "ms of CPU a token",
    "rss_mb": "MB resident at most",
}


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _svg(figure: Figure, title: str) -> str:
    """The figure as an element of a page, with ``title`` for those who do not see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font: [^;\"]*?([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for stand_in, color in COLORS.items():
        text = text.replace(stand_in, color)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def trend_chart(trend: Trend) -> str:
    """Medians of sessions in order, with their ranges; levels between change points, and each change in percent."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9.6, 3.3)
        n = len(trend.sessions)
        xs = range(n)
        ranges = [session.values(trend.metric) for session in trend.sessions]
        axes.vlines(xs, [min(r) for r in ranges], [max(r) for r in ranges], color=SERIES, alpha=0.35, linewidth=4)
        axes.plot(xs, trend.medians, color=SERIES, linewidth=1.4, marker="o", markersize=4.5, markeredgecolor=SURFACE,
                  markeredgewidth=0.8)  # fmt: skip
        _levels(axes, trend)
        low, high = min(min(r) for r in ranges), max(max(r) for r in ranges)
        margin = max(high - low, 0.04 * high) * 0.22
        axes.set_ylim(max(low - margin, 0), high + 1.4 * margin)
        axes.set_xlim(-0.6, max(n - 0.4, 0.6))
        step = max(1, math.ceil(n / 9))
        ticks = list(range(0, n, step))
        axes.set_xticks(ticks, [_tick(trend, i) for i in ticks])
        axes.set_ylabel(NAMES[trend.metric])
        axes.grid(axis="x", visible=False)
        return _svg(figure, f"Trend of {NAMES[trend.metric]} over {n} sessions")


def _tick(trend: Trend, index: int) -> str:
    session = trend.sessions[index]
    return f"{session.label[:7]}\n{datetime.fromtimestamp(session.seconds, UTC):%d %b}"


def _levels(axes: Any, trend: Trend) -> None:
    n = len(trend.sessions)
    cuts = [0, *(point.index for point in trend.points), n]
    top = axes.get_xaxis_transform()
    for start, end in pairwise(cuts):
        mean = sum(trend.medians[start:end]) / (end - start)
        if trend.points:
            axes.hlines(mean, start - 0.5, end - 0.5, color=MUTED, linewidth=1.2, linestyle=(0, (4, 2)))
    for point in trend.points:
        is_worse = (point.change > 0) == (trend.metric in LESS_IS_BETTER)
        color = WORSE if is_worse else BETTER
        axes.axvline(point.index - 0.5, color=color, linewidth=1.2)
        axes.text(
            point.index - 0.4, 0.98, f"{point.change:+.1%}", color=color, transform=top, va="top", fontweight="bold"
        )


@dataclass(frozen=True, slots=True)
class Spot:
    """A kernel in the roofline: multiply-accumulates a byte, 10⁹ of them a second, share of the time."""

    name: str
    intensity: float
    gmac_per_s: float
    share: float


def roofline_chart(spots: Sequence[Spot], gb_per_s: float | None, ceiling_gmac: float | None) -> str:
    """Kernels by what they compute a byte and how fast; the slope is the bandwidth that was measured beside the run."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9.6, 4.2)
        low = min(spot.intensity for spot in spots) / 3
        high = max(spot.intensity for spot in spots) * 6
        floor = min(spot.gmac_per_s for spot in spots) / 3
        tops = [spot.gmac_per_s for spot in spots] + ([ceiling_gmac] if ceiling_gmac else [])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(floor, max(tops) * 2.5)
        if gb_per_s is not None:
            end = high if ceiling_gmac is None else min(high, ceiling_gmac / gb_per_s)
            axes.plot([low, end], [gb_per_s * low, gb_per_s * end], color=LIMIT, linewidth=1.5)
            at = math.sqrt(low * end)
            axes.annotate(
                f"memory: {gb_per_s:.3g} GB/s measured", (at, gb_per_s * at), color=LIMIT, va="top",
                xytext=(14, -14), textcoords="offset points",
            )  # fmt: skip
        if ceiling_gmac is not None:
            axes.axhline(ceiling_gmac, color=LIMIT, linewidth=1.2, linestyle=(0, (5, 3)))
            axes.annotate(
                f"no CPU of this kind computes more than {ceiling_gmac:.0f} GMAC/s", (high, ceiling_gmac), color=LIMIT,
                ha="right", xytext=(-4, 5), textcoords="offset points",
            )  # fmt: skip
        axes.scatter(
            [spot.intensity for spot in spots], [spot.gmac_per_s for spot in spots],
            s=[60 + 900 * spot.share for spot in spots], color=SERIES, alpha=0.85, edgecolor=SURFACE, linewidth=1.2, zorder=3,
        )  # fmt: skip
        for number, (place, side) in _labels(spots, floor, max(tops) * 2.5).items():
            axes.annotate(
                str(number), (spots[number - 1].intensity, place), xycoords=("data", "axes fraction"), va="center",
                xytext=(13 * side, 0), ha="left" if side > 0 else "right", textcoords="offset points", fontweight="bold",
            )  # fmt: skip
        axes.set_xlabel("multiply-accumulates a byte")
        axes.set_ylabel("GMAC/s")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        return _svg(figure, "Roofline of the kernels")


def _labels(
    spots: Sequence[Spot], floor: float, top: float, gap: float = 0.06, sides: Sequence[int] = (1, -1),
    reach: float = 1.4,
) -> dict[int, tuple[float, int]]:  # fmt: skip
    """Where the numbers of the spots stand: a share of the axis, and 1 for the right of the spot, −1 for the left.

    Spots close to one another have their numbers on all ``sides`` by turns; on one side numbers never stand on one another.
    """
    found: dict[int, tuple[float, int]] = {}
    turn = 0
    for number, spot in sorted(enumerate(spots, 1), key=lambda item: item[1].gmac_per_s):
        place = math.log(spot.gmac_per_s / floor) / math.log(top / floor)
        near = [found[n] for n in found if 1 / reach < spots[n - 1].intensity / spot.intensity < reach]
        turn = turn + 1 if any(abs(other - place) < gap for other, _ in near) else 0
        side = sides[turn % len(sides)]
        found[number] = (max([place, *(other + gap for other, at in near if at == side)]), side)
    return found


@dataclass(frozen=True, slots=True)
class Mark:
    """A kind of work of an engine in the roofline of a machine: products a byte, 10⁹ of them a second."""

    label: str
    intensity: float
    gmac_per_s: float
    is_ours: bool


def machine_chart(marks: Sequence[Mark], gb_per_s: float, ceilings: Sequence[tuple[str, float]]) -> str:
    """Whole runs under the limits of their machine: what it reads a second, and what each of ``ceilings`` multiplies."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9.6, 5.6)
        end = max(peak for _, peak in ceilings) / gb_per_s
        low = min(mark.intensity for mark in marks) / 1.6
        high = 3 * max(end, *(mark.intensity for mark in marks))
        floor, top = min(mark.gmac_per_s for mark in marks) / 1.8, max(peak for _, peak in ceilings) * 1.5
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot([low, end], [gb_per_s * low, gb_per_s * end], color=LIMIT, linewidth=1.5)
        at = math.sqrt(low * end)
        axes.annotate(
            f"{gb_per_s:.3g} GB/s",
            (at, gb_per_s * at),
            color=LIMIT,
            ha="right",
            xytext=(-6, 6),
            textcoords="offset points",
        )
        for name, peak in ceilings:
            axes.plot([peak / gb_per_s, high], [peak, peak], color=LIMIT, linewidth=1.3)
            axes.annotate(
                f"{name}: {peak:.0f} GMAC/s",
                (peak / gb_per_s, peak),
                color=LIMIT,
                xytext=(4, 5),
                textcoords="offset points",
            )
        for is_ours, color in ((True, SERIES), (False, MUTED)):
            chosen = [mark for mark in marks if mark.is_ours == is_ours]
            axes.scatter(
                [mark.intensity for mark in chosen], [mark.gmac_per_s for mark in chosen], s=64,
                color=color, edgecolor=SURFACE, linewidth=1.2, zorder=3,
            )  # fmt: skip
        spots = [Spot(mark.label, mark.intensity, mark.gmac_per_s, 0.0) for mark in marks]
        for number, (place, _) in _labels(spots, floor, top, gap=0.04, sides=(1,), reach=4.0).items():
            mark = marks[number - 1]
            is_left = mark.intensity > high / 12
            axes.annotate(
                mark.label, (mark.intensity, place), xycoords=("data", "axes fraction"), va="center",
                ha="right" if is_left else "left", xytext=(-9 if is_left else 9, 0), textcoords="offset points",
                color=INK if mark.is_ours else MUTED, fontsize=9.5,
            )  # fmt: skip
        axes.set_xlabel("products a byte")
        axes.set_ylabel("GMAC/s")
        steps = [a * 10**n for n in range(5) for a in (1, 2, 5)]
        axes.set_xticks(steps, [f"{x:g}" for x in steps])
        axes.set_yticks(steps, [f"{x:g}" for x in steps])
        axes.minorticks_off()
        axes.set_xlim(low, high)
        axes.set_ylim(floor, top)
        return _svg(figure, "Roofline of this machine")


LIGHT = "--ink:#1c1d22;--muted:#62646f;--grid:#e3e1da;--series:#2f5fc4;--limit:#9a5b00;--surface:#ffffff"
DARK = "--ink:#eceae4;--muted:#a5a7b3;--grid:#34363f;--series:#82a8ff;--limit:#e9b15c;--surface:#1d1f26"


def standalone(svg: str) -> str:
    """A chart as a file of its own, on a ground of its own, with colors for light and dark."""
    style = f"<style>:root{{{LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{DARK}}}}}</style>"
    ground = '<rect width="100%" height="100%" style="fill: var(--surface)"/>'
    return re.sub(r"(<svg[^>]*>)", rf"\1{style}{ground}", svg, count=1)


def bars_chart(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """A bar for each (name, median, low, high), with the range as a line."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(9.6, 0.8 + 0.5 * len(rows))
        ys = list(range(len(rows)))[::-1]
        axes.barh(ys, [row[1] for row in rows], color=SERIES, height=0.56)
        axes.hlines(ys, [row[2] for row in rows], [row[3] for row in rows], color=INK, linewidth=1.4)
        for y, row in zip(ys, rows, strict=True):
            axes.annotate(
                digits(row[1]), (row[3], y), xytext=(7, 0), textcoords="offset points", va="center", fontweight="bold"
            )
        axes.set_yticks(ys, [row[0] for row in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xlim(0, max(row[3] for row in rows) * 1.14)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        return _svg(figure, f"{label} by machine")
