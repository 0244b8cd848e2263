"""Flame graphs as pictures: one SVG file each, with its own style and script, legible without either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tritium.bench.flame import LEGEND, Frame, Kind

WIDTH, MARGIN, ROW = 1200, 20, 23
LEAST_PX = 0.08
"""Narrower frames are left out of the picture."""
_CHARACTER = 7.1
_TICKS = 5
_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Picture:
    """What stands around the frames. ``unit``: "ns", or what the widths count."""

    title: str
    subtitles: Sequence[str]
    footer: str
    unit: str = "ns"


@dataclass(frozen=True, slots=True)
class Paint:
    """How a frame looks and what is told of it: a class of the style sheet, an opacity of its fill, lines of detail."""

    look: str
    opacity: float | None
    detail: str


def draw(
    root: Frame,
    picture: Picture,
    paint: Callable[[Frame, Frame], Paint],
    legend: Iterable[tuple[str, float | None, str]],
) -> str:
    """The flame graph of ``root``; ``paint`` is asked for each frame and its parent."""
    head = 44 + 17 * len(picture.subtitles) + 34
    bottom = head + ROW * root.depth
    height = bottom + 64
    frames: list[str] = []
    _frames(root, root, 0.0, 0, root.ns, bottom, paint, frames)
    right = WIDTH - MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'style="max-width:100%;height:auto" data-left="{MARGIN}" data-width="{WIDTH - 2 * MARGIN}" data-total="{root.ns}" '
        f'data-unit="{escape(picture.unit)}">',
        f"<title>{escape(picture.title)}</title>",
        f"<style>{_read('flame.css')}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        f'<text class="title" x="{MARGIN}" y="36">{escape(picture.title)}</text>',
        *(
            f'<text class="faint" x="{MARGIN}" y="{57 + 17 * i}">{escape(line)}</text>'
            for i, line in enumerate(picture.subtitles)
        ),
        f'<text class="link" id="find" x="{right}" y="36" text-anchor="end" style="display:none">Search</text>',
        f'<text class="link" id="reset" x="{right - 56}" y="36" text-anchor="end" style="display:none">Reset zoom</text>',
        f'<text id="found" x="{right}" y="57" text-anchor="end"/>',
        *_legend(legend, head - 30),
        *frames,
        *_axis(root.ns, picture.unit, bottom),
        f'<text class="faint" x="{MARGIN}" y="{height - 14}">{escape(picture.footer)}</text>',
        f'<text class="faint" id="hint" x="{right}" y="{height - 14}" text-anchor="end"/>',
        '<g id="tip" style="display:none"><rect rx="6"/>'
        + "".join(f'<text x="10" y="{20 + 17 * i}"{_BOLD if not i else _FAINT}/>' for i in range(4))
        + "</g>",
        f"<script><![CDATA[{_read('flame.js')}]]></script>",
        "</svg>",
    ]
    return "\n".join(out) + "\n"


_BOLD = ' style="font-weight:650"'
_FAINT = ' class="faint"'


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8").strip()


def _frames(
    frame: Frame, parent: Frame, at: float, depth: int, total: int, bottom: int,
    paint: Callable[[Frame, Frame], Paint], out: list[str],
) -> None:  # fmt: skip
    inner = WIDTH - 2 * MARGIN
    share = frame.ns / total
    if share * inner < LEAST_PX:
        return
    x, w, y = MARGIN + at * inner, share * inner, bottom - ROW * (depth + 1)
    look = paint(frame, parent)
    name = escape(frame.name)
    lines = escape(look.detail).replace("\n", "&#10;")
    opacity = "" if look.opacity is None else f' fill-opacity="{look.opacity:.2f}"'
    out.append(
        f'<g class="f" data-n="{name}" data-x="{at:.6f}" data-w="{share:.6f}" data-y="{depth}" data-d="{lines}">'
        f'<title>{name}\n{escape(look.detail)}</title><rect class="{look.look}"{opacity} x="{x:.2f}" y="{y}" width="{w:.2f}" '
        f'height="{ROW}" rx="3"/><text x="{x + 5:.2f}" y="{y + 16}">{escape(fit(frame.name, w))}</text></g>'
    )
    for child in frame.children.values():
        _frames(child, frame, at, depth + 1, total, bottom, paint, out)
        at += child.ns / total


def fit(name: str, pixels: float) -> str:
    """As much of a name as has room, nothing if that says nothing."""
    n = int((pixels - 8) / _CHARACTER)
    if n >= len(name):
        return name
    return "" if n < 6 else name[: n - 1] + "…"


def _legend(entries: Iterable[tuple[str, float | None, str]], y: int) -> Iterable[str]:
    x = float(MARGIN)
    for look, opacity, text in entries:
        fill = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
        yield f'<rect class="chip {look}"{fill} x="{x:.0f}" y="{y}" width="13" height="13" rx="3"/>'
        yield f'<text class="faint" x="{x + 18:.0f}" y="{y + 11}">{escape(text)}</text>'
        x += 18 + 6.4 * len(text) + 20


def _axis(total: int, unit: str, y: int) -> Iterable[str]:
    inner = WIDTH - 2 * MARGIN
    yield f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y + 4}" y2="{y + 4}"/>'
    for i in range(_TICKS):
        x = MARGIN + inner * i / (_TICKS - 1)
        anchor = "start" if i == 0 else "end" if i == _TICKS - 1 else "middle"
        yield f'<line class="axis" x1="{x:.0f}" x2="{x:.0f}" y1="{y + 4}" y2="{y + 9}"/>'
        label = amount(total * i / (_TICKS - 1), unit)
        yield f'<text class="faint tick" x="{x:.0f}" y="{y + 22}" text-anchor="{anchor}">{label}</text>'


def amount(value: float, unit: str = "ns") -> str:
    """A number of nanoseconds, or of something else, to read."""
    if unit != "ns":
        return f"{value:,.0f} {unit}"
    for power, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if value >= power:
            return f"{value / power:.4g} {name}"
    return f"{value:.4g} ns"


def by_kind(root: Frame, unit: str = "ns") -> Callable[[Frame, Frame], Paint]:
    """Paint by the kind of work; tell time, shares, and what a kernel reached."""

    def paint(frame: Frame, parent: Frame) -> Paint:
        shares = f"{amount(frame.ns, unit)} · {100 * frame.ns / root.ns:.2f} % of all"
        if parent is not frame and parent is not root:
            shares += f" · {100 * frame.ns / parent.ns:.1f} % of {parent.name}"
        lines = [shares]
        if frame.calls:
            work = f"{frame.calls:,} calls · {frame.bytes / frame.ns:.3g} GB/s"
            lines.append(work + (f" · {frame.macs / frame.ns:.3g} GMAC/s" if frame.macs else ""))
        kind: Kind = frame.kind or "frame"
        return Paint(f"{kind} s{sum(frame.name.encode()) % 3}", None, "\n".join(lines))

    return paint


def kinds_in(root: Frame) -> list[tuple[str, float | None, str]]:
    """The legend of the kinds that occur."""
    seen: set[Kind] = set()

    def look(frame: Frame) -> None:
        seen.add(frame.kind or "frame")
        for child in frame.children.values():
            look(child)

    look(root)
    return [(kind, None, text) for kind, text in LEGEND.items() if kind in seen]
