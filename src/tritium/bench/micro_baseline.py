"""The kept figures of the quantization micro-benchmark: a text file of one row a figure, and the comparison with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritium.backends import cpu
from tritium.bench.host import fingerprint
from tritium.bench.micro import Series
from tritium.bench.regression import CLASSIC
from tritium.bench.verdict import Decision, Word, together
from tritium.errors import FormatError

HEAD = "# Figures of tritium benchmark quantize --write-baseline: nanoseconds a call: least, median and greatest of the samples."
COLUMNS = ("operation", "variant", "size", "ns", "median_ns", "high_ns", "giga_per_s", "unit")

Conditions = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Kept:
    """A baseline as read: its conditions, and (least, median, greatest) nanoseconds by operation, variant and size."""

    conditions: dict[str, str]
    rows: dict[tuple[str, str, int], tuple[float, float, float]]


def conditions(n_threads: int) -> dict[str, str]:
    """What has to be equal for two figures to be comparable, and where they are from."""
    where = fingerprint()
    source = where.source
    commit = "unknown" if source is None else source.commit + (" with changes of its own" if source.is_dirty else "")
    return {
        "cpu": where.machine.cpu or "unknown",
        "n_cpus": str(where.machine.n_cpus),
        "isa": cpu.isas()[0],
        "threads": str(n_threads),
        "compiler": where.compiler,
        "commit": commit,
    }


COMPARED = ("cpu", "n_cpus", "isa", "threads")


def render(every: Sequence[Series], where: Conditions) -> str:
    """The file's text."""
    lines = [HEAD, *(f"# {name}: {value}" for name, value in where.items()), "\t".join(COLUMNS)]
    for series in every:
        for p in series.points:
            rate = "-" if p.giga_per_s is None else f"{p.giga_per_s:.6g}"
            figures = (f"{p.ns:.1f}", f"{p.median_ns:.1f}", f"{p.high_ns:.1f}", rate, f"G{series.unit}/s")
            lines.append("\t".join((series.operation, series.variant, str(p.size), *figures)))
    return "\n".join(lines) + "\n"


def parse(text: str, where: str) -> Kept:
    """Read a baseline. Errors: FormatError for a line that is no row."""
    found: dict[str, str] = {}
    rows: dict[tuple[str, str, int], tuple[float, float, float]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            name, colon, value = line[1:].partition(": ")
            if colon:
                found[name.strip()] = value.strip()
            continue
        cells = line.split("\t")
        if not line.strip() or tuple(cells) == COLUMNS:
            continue
        try:
            operation, variant, size, ns, median, high, _, _ = cells
            figures = float(ns), float(median), float(high)
            if not 0 < figures[0] <= figures[1] <= figures[2] < float("inf"):
                raise ValueError("the figures are not least, median and greatest")
            rows[operation, variant, int(size)] = figures
        except ValueError as error:
            raise FormatError(
                "baseline", where=f"{where}, line {number}", expected=" ".join(COLUMNS), got=error
            ) from None
    if not rows:
        raise FormatError("baseline", where=where, expected="at least one row", got="none")
    return Kept(found, rows)


def absent(path: str) -> Decision:
    """Nothing to compare with."""
    return Decision("INCONCLUSIVE", (f"{path}: no baseline; --write-baseline makes one",))


def compare(every: Sequence[Series], where: Conditions, kept: Kept) -> Decision:
    """Every figure against the kept one, by its throughput; on another machine nothing is compared."""
    other = [name for name in COMPARED if kept.conditions.get(name) != where[name]]
    if other:
        told = ", ".join(f"{name} {kept.conditions.get(name, 'unknown')}, here {where[name]}" for name in other)
        return Decision("INCONCLUSIVE", (f"the baseline is of another machine or setting: {told}",))
    decisions = [_row(series, i, kept) for series in every for i in range(len(series.points))]
    missing = [decision for decision in decisions if decision is None]
    whole = together(decision for decision in decisions if decision is not None)
    unknown = [f"{len(missing)} figures have no baseline"] if missing else []
    passed = sum(1 for decision in decisions if decision is not None and decision.word == "PASS")
    return Decision(whole.word, (f"{passed} of {len(decisions)} PASS", *unknown, *whole.reasons))


def _row(series: Series, i: int, kept: Kept) -> Decision | None:
    point = series.points[i]
    before = kept.rows.get((series.operation, series.variant, point.size))
    if before is None:
        return None
    least, median, _ = before
    share = least / point.ns
    word: Word = "PASS"
    if 100 * share >= CLASSIC.attention_percent:
        word = "ATTENTION"
    elif 100 * share < CLASSIC.pass_percent:
        word = "FAIL" if point.ns > median else "INCONCLUSIVE"
    if word == "PASS":
        return Decision(word, ())
    text = f"{word}: {series.operation} {series.variant} {point.size}: {100 * share:.1f} % of the baseline's speed"
    return Decision(word, (text + (", within the spread of the samples" if word == "INCONCLUSIVE" else ""),))
