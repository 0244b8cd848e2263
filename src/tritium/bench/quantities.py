"""Quantities of performance in Markdown: numbers and their units, however they are spelled.

A quantity stands as a number and a unit (20 tok/s, **3** ms, 1.2e4 tokens per second), as a unit and a number (tok/s: 20,
×3), as a bare number under a table's head that has the unit, or in words (three times as fast). A unit of speed makes a
quantity by itself; ms, ×, %, MB and the like only in a sentence, a line of code or a table that speaks of performance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from tritium.errors import FormatError


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit measures, its size in the base unit of that, and whether nothing but performance is told in it."""

    kind: str
    size: float
    is_speed: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, or a range of two, as it stands at ``start`` of a block."""

    start: int
    text: str
    numbers: tuple[str, ...]
    unit: Unit


_SPACE = r"[ \u00a0\u2009\u202f]"
_PER = rf"(?:{_SPACE}?/{_SPACE}?|\s(?:per|an?|each|every)\s)"
_PER_S = rf"(?:{_PER}s(?:ec(?:ond)?s?)?|ps)"
_PER_TOKEN = rf"{_PER}(?:output\s|decoded\s|generated\s)?tok(?:en)?"
_TIMES = (
    (r"s(?:ec(?:ond)?s?)?", 1.0),
    (r"(?:ms(?:ec)?|milliseconds?)", 1e-3),
    (r"(?:[µμu]s|microseconds?)", 1e-6),
    (r"(?:ns|nanoseconds?)", 1e-9),
)
_BYTES = tuple(
    row
    for power, prefix in enumerate("KMGT", 1)
    for row in ((f"{prefix}iB", 1024.0**power), (f"[{prefix}{prefix.lower()}]B(?:ytes?)?", 1000.0**power))
)
_COUNTS = (("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))
_UNITS: tuple[tuple[str, Unit], ...] = (
    (rf"(?:[Tt]ok(?:en)?s?|[Ww]ords?){_PER_S}|[tT]/s(?:ec)?|[Tt][Pp][Ss]", Unit("rate", 1.0, True)),
    *((f"{byte}{_PER_S}", Unit("bandwidth", size, True)) for byte, size in _BYTES),
    *((rf"{p}(?:(?:MAC|FLOP|OP)s?{_PER_S}|FLOPS|OPS)", Unit("compute", size, True)) for p, size in _COUNTS),
    *((f"{time}{_PER_TOKEN}", Unit("time", size, True)) for time, size in _TIMES),
    *((f"{p}J(?:oules?)?{_PER_TOKEN}", Unit("energy", size, True)) for p, size in (("", 1.0), ("m", 1e-3))),
    *((byte, Unit("bytes", size)) for byte, size in _BYTES),
    *((time, Unit("time", size)) for time, size in _TIMES),
    (r"W|[Ww]atts?", Unit("power", 1.0)),
    (r"[×xX]|fold|times\s(?:as|the|faster|slower|quicker|higher|lower|less|more)", Unit("ratio", 1.0)),
    (r"%|per\s?cent", Unit("ratio", 0.01)),
)
_NUMBER = (
    r"(?:\d{1,3}(?:[ \u00a0\u2009\u202f,'’_]\d{3}){1,6}(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    r"(?:[kK](?=[ \u00a0]?[tTwW]))?"
)
_SPOKEN = (
    r"(?:half|one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|forty|fifty|(?:a|one|two)\shundred)"
)
_MARK = r"[*_`]{0,3}"
_GAP = rf"{_MARK}\+?{_MARK}(?:&\w+;|\s{{0,4}}-?){_MARK}"
_BEFORE = r"(?<![\w.,#/-])"
_RANGE = rf"(?P<low>{_NUMBER})(?:\s?(?:–|—|-|to|and|\.\.\.?|…)\s?(?P<high>{_NUMBER}))?"
_NAMES = r"tokens_per_second|tok_s"
_ANY_UNIT = "|".join(spelled for spelled, _ in _UNITS)
_SPEED_UNIT = "|".join(spelled for spelled, unit in _UNITS if unit.is_speed)
_AFTER = re.compile(rf"{_BEFORE}{_RANGE}{_GAP}(?P<unit>{_ANY_UNIT})(?![\w/])")
_HEADED = re.compile(
    rf"(?<![\w/])(?P<unit>{_SPEED_UNIT}|{_NAMES})(?![\w/])[)\]*_`\"']{{0,3}}{_SPACE}{{0,9}}(?:of|is|are|was|were|reaches|[:=≈~<>≤≥])?"
    rf"{_SPACE}{{0,9}}{_MARK}(?P<low>{_NUMBER})(?![\w.,]*\w)"
)
_MULTIPLIED = re.compile(rf"(?<![\w.,#/×-])(?P<unit>×)(?P<low>{_NUMBER})(?![\w/×])")
_IN_WORDS = re.compile(
    rf"\b{_SPOKEN}[ -](?P<unit>{_SPEED_UNIT})(?![\w/])"
    rf"|\b(?:twice|thrice|{_SPOKEN}(?:\stimes|[ -]?fold))(?:\sas)?\s"
    r"(?:fast|quick|slow|high|the\s(?:speed|throughput|rate|latency))\w*"
    rf"|\bhalf\sthe\s(?:time|latency)\b|\b(?:doubles|triples|halves)\s(?:the\s)?(?:speed|throughput|latency|time)\b",
    re.IGNORECASE,
)
_HEAD = re.compile(rf"(?:^|[\s(\[,])(?P<unit>{_ANY_UNIT}|{_NAMES})(?:$|[\s)\],])")
_CELL = re.compile(rf"[\s*_`~≈<>≤≥±]*{_BEFORE}{_RANGE}(?![\w/]|[.,]\d)")
_WORDS = re.compile(
    r"\b(?:fast(?:er|est)?|slow(?:er|est|s)?|slow-?down|speed(?:s|-?ups?)?|latency|throughput|performance|prefill\w*|decod\w+"
    r"|bandwidth|overhead|memory|RAM|RSS|resident|peaks?|footprint|occupies|consumes?|draws|load(?:s|ed|ing)?|takes?|took|startup|needs"
    r"|quick(?:er|ly)?|first\stoken|per\stoken|TTFT|TPOT|benchmarks?|accuracy|regressions?|outperforms?|runtime|runs?\sin"
    r"|response|respon(?:ds|se\stime)|finish(?:es|ed)|(?:half|less|more)\s(?:the\s)?time|uses)\b",
    re.IGNORECASE,
)


def find_quantities(block: str, *, is_code: bool) -> list[Quantity]:
    """The quantities of performance in a paragraph, a table or a block of code, in order."""
    candidates = chain(
        _matches(_AFTER, block), _matches(_HEADED, block), _matches(_MULTIPLIED, block), _cells(block), _spoken(block)
    )
    kept: list[Quantity] = []
    end = 0
    for found in sorted(candidates, key=lambda quantity: (quantity.start, -len(quantity.text))):
        if found.start >= end and (found.unit.is_speed or _speaks_of_performance(block, found.start, is_code)):
            kept.append(found)
            end = found.start + len(found.text)
    return kept


def bound_quantity(before: str) -> Quantity | None:
    """The quantity of whatever kind at the end of a text: a comment after it makes it a claim."""
    found = chain(_matches(_AFTER, before), _matches(_MULTIPLIED, before))
    last = max(found, key=lambda quantity: quantity.start, default=None)
    return last if last is not None and not before[last.start + len(last.text) :].strip(" *_`\n") else None


def _matches(pattern: re.Pattern[str], block: str) -> Iterator[Quantity]:
    for match in pattern.finditer(block):
        groups = match.groupdict()
        numbers = tuple(number for number in (groups["low"], groups.get("high")) if number)
        yield Quantity(match.start(), match[0], numbers, _unit(groups["unit"]))


def _spoken(block: str) -> Iterator[Quantity]:
    for match in _IN_WORDS.finditer(block):
        unit = _unit(match["unit"]) if match["unit"] else Unit("ratio", 1.0, True)
        yield Quantity(match.start(), match[0], (match[0],), unit)


def _cells(block: str) -> Iterator[Quantity]:
    """Bare numbers of a table under a head that has a unit."""
    units: dict[int, Unit] | None = None
    at = 0
    for line in block.splitlines(keepends=True):
        cells = re.split(r"(?<!\\)\|", line)
        if not line.lstrip(" >").startswith("|"):
            units = None
        elif units is None:
            heads = ((i, _HEAD.search(cell.replace("*", " ").strip())) for i, cell in enumerate(cells))
            units = {i: _unit(head["unit"]) for i, head in heads if head}
        else:
            place = at
            for i, cell in enumerate(cells):
                match = _CELL.match(cell) if i in units else None
                if match:
                    numbers = tuple(number for number in (match["low"], match["high"]) if number)
                    yield Quantity(place + match.start("low"), match[0][match.start("low") :], numbers, units[i])
                place += len(cell) + 1
        at += len(line)


def _unit(spelled: str) -> Unit:
    if re.fullmatch(_NAMES, spelled):
        return Unit("rate", 1.0, True)
    return next(unit for case in ("", "(?i)") for pattern, unit in _UNITS if re.fullmatch(case + pattern, spelled))


def _speaks_of_performance(block: str, at: int, is_code: bool) -> bool:
    """Whether a word of performance stands in the number's sentence, line of code, or row or head of its table."""
    line_start = block.rfind("\n", 0, at) + 1
    line = block[line_start : block.find("\n", at) if "\n" in block[at:] else len(block)]
    if line.lstrip().startswith("|"):
        return bool(_WORDS.search(_prose(line)) or _WORDS.search(_prose(block.lstrip().split("\n", 1)[0])))
    if is_code:
        return bool(_WORDS.search(line))
    ends = [m.end() for m in re.finditer(r"[.!?;](?=\s)|\n(?=\s*(?:[-*#]+|\d+[.)])\s)", block)]
    start = max((end for end in ends if end <= at), default=0)
    stop = min((end for end in ends if end > at), default=len(block))
    return bool(_WORDS.search(_prose(block[start:stop])))


def _prose(text: str) -> str:
    return re.sub(r"`[^`]*`", "", text)


def rendered(value: float, like: str) -> str:
    """A value with the decimals, the separator of thousands and the exponent of a number in a text.

    Errors: FormatError for a number in words, which cannot be compared.
    """
    if not like[:1].isdigit():
        raise FormatError("a number in words", expected="digits, that evidence can be bound to", got=like)
    if like[-1] in "kK":
        return rendered(value / 1e3, like[:-1]) + like[-1]
    mantissa, mark, exponent = like.replace("E", "e").partition("e")
    decimals = len(mantissa.partition(".")[2])
    if mark:
        digits, _, power = f"{value:.{decimals}e}".partition("e")
        sign = "+" if exponent.startswith("+") else ""
        return f"{digits}{'E' if 'E' in like else 'e'}{int(power):{sign}d}"
    separator = next((s for s in " \u00a0\u2009\u202f,'’_" if s in like), "")
    return f"{value:,.{decimals}f}".replace(",", separator)
