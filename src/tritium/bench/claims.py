"""Claims of performance in Markdown, and the evidence each is bound to.

A claim is a number with a unit of speed, or a number with ms, ×, %, MB and the like in a sentence or a table that speaks of
performance. A comment after it, or in front of a block of code for the claims in that block, binds it::

    It decodes 24.1 tok/s <!-- bound: docs/baselines/2026-01-31/cpu.json#tokens_per_second speed=E2 -->.

The file is a receipt in a dated folder below docs/baselines, which the judge has to accept at that level (the default
is speed=E2), or a policy: a TOML file, whose numbers are limits and not measurements. A field is a dotted path,
``a.b[0].c``; a pattern of several receipts, ``docs/baselines/2026-01-31/*.json``, stands for their median. A range,
"10–20", takes two references."""

from __future__ import annotations

import json
import re
import statistics
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritium.errors import FormatError
from tritium.gates import judge, parse_requirements, read_policy

DEFAULT_LEVEL = "speed=E2"
DATED = re.compile(r"(?:^|/)docs/baselines/(?:\d{4}-\d{2}-\d{2}/|\d{8}-)")

_NUMBER = r"\d{1,3}(?:[  ,]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
# Unit → what it measures, and its size in the base unit of that.
_SPEEDS = {
    "tok/s": ("rate", 1.0),
    "tokens/s": ("rate", 1.0),
    "tokens per second": ("rate", 1.0),
    "GB/s": ("bandwidth", 1e9),
    "MB/s": ("bandwidth", 1e6),
    "GiB/s": ("bandwidth", 2.0**30),
    "GMAC/s": ("compute", 1e9),
    "TMAC/s": ("compute", 1e12),
    "ms/token": ("time", 1e-3),
    "µs/token": ("time", 1e-6),
}
_OTHERS = {
    "s": ("time", 1.0),
    "ms": ("time", 1e-3),
    "µs": ("time", 1e-6),
    "us": ("time", 1e-6),
    "ns": ("time", 1e-9),
    "×": ("ratio", 1.0),
    "x": ("ratio", 1.0),
    "%": ("ratio", 0.01),
    "kB": ("bytes", 1e3),
    "MB": ("bytes", 1e6),
    "GB": ("bytes", 1e9),
    "KiB": ("bytes", 1024.0),
    "MiB": ("bytes", 2.0**20),
    "GiB": ("bytes", 2.0**30),
}
_UNITS = {**_SPEEDS, **_OTHERS}
_FIELDS = (  # endings of a field's name → what it measures, and its unit in the base unit
    ("tokens_per_second", ("rate", 1.0)),
    ("tok_s", ("rate", 1.0)),
    ("gb_per_s", ("bandwidth", 1e9)),
    ("_bytes", ("bytes", 1.0)),
    ("_mb", ("bytes", 1e6)),
    ("_ns", ("time", 1e-9)),
    ("_us", ("time", 1e-6)),
    ("_ms", ("time", 1e-3)),
    ("_s", ("time", 1.0)),
    ("percent", ("ratio", 0.01)),
)
_CLAIM = re.compile(
    rf"(?<![\w.,#/-])(?P<low>{_NUMBER})(?:\s?(?:–|-|to)\s?(?P<high>{_NUMBER}))?[ \u00a0]?"
    rf"(?P<unit>{'|'.join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))})(?![\w/])"
)
_WORDS = re.compile(
    r"\b(?:fast(?:er|est)?|slow(?:er|est|s)?|slow-?down|speed(?:s|-?up)?|latency|throughput|performance|prefill\w*|decod\w+"
    r"|bandwidth|overhead|memory|RSS|resident|load(?:s|ed|ing)?|takes?|took|startup"
    r"|quick(?:er|ly)?|time per token|TTFT|TPOT|benchmarks?|accuracy|regressions?)\b",
    re.IGNORECASE,
)
_BOUND = re.compile(r"<!--\s*bound:\s*(?P<body>.*?)\s*-->", re.DOTALL)
_REFERENCE = re.compile(r"(?P<path>[^\s#]+)#(?P<field>\S+)")
_LEVEL = re.compile(r"\b[a-z]+=E\d\b(?:,[a-z]+=E\d\b)*")
_GENERATED = re.compile(r"<!--\s*generated from (?P<path>\S+)\s*-->")
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})", re.MULTILINE)
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Reference:
    """Evidence that a comment names: a file or a pattern of files, and a field."""

    path: str
    field: str


@dataclass(slots=True)
class Claim:
    """A claim at a place of a page, and what became of it.

    ``status``: backed (a receipt says so), policy (a limit of a policy file), generated (the page is rendered from evidence),
    unverified (bound to nothing), wrong (its evidence says otherwise or is refused). ``why`` explains the last two.
    """

    path: Path
    line: int
    text: str
    start: int  # in the page's text
    numbers: tuple[str, ...]
    unit: str
    references: tuple[Reference, ...] = ()
    require: str = DEFAULT_LEVEL
    status: str = "unverified"
    why: str = "bound to no evidence"
    values: tuple[float, ...] = ()

    @property
    def is_good(self) -> bool:
        """True unless the claim has to be corrected."""
        return self.status in ("backed", "policy", "generated")

    def as_json(self) -> dict[str, Any]:
        """The row of the inventory."""
        evidence = [f"{r.path}#{r.field}" for r in self.references]
        row = {"path": str(self.path), "line": self.line, "claim": self.text, "status": self.status}
        return {**row, "evidence": evidence, "why": "" if self.is_good else self.why}


def find_claims(path: Path, text: str) -> list[Claim]:
    """All claims of a page in order, each with the references of the comment that binds it."""
    claims: list[Claim] = []
    lead: re.Match[str] | None = None
    for start, block, is_code in _blocks(text):
        hidden = _BOUND.sub(lambda m: " " * len(m[0]), block)
        found = [
            Claim(path, text.count("\n", 0, start + m.start()) + 1, m[0], start + m.start(), _numbers(m), m["unit"])
            for m in _CLAIM.finditer(hidden)
            if m["unit"] in _SPEEDS
            or _speaks_of_performance(hidden, m.start(), is_code)
            or _BOUND.match(block[m.end() :].lstrip())
        ]
        comments = list(_BOUND.finditer(block))
        if is_code and lead is not None:
            _bind_in_order(found, lead["body"])
        for comment in comments:
            before = [c for c in found if c.start < start + comment.start() and not c.references]
            if before:
                _bind_in_order(before[-1:], comment["body"])
        lead = comments[-1] if comments and not found and not is_code else None
        claims += found
    generated = _GENERATED.search(text)
    for claim in claims if generated else ():
        claim.references = claim.references or (Reference(generated["path"], ""),) if generated else ()
    return claims


def _numbers(match: re.Match[str]) -> tuple[str, ...]:
    return tuple(number for number in (match["low"], match["high"]) if number)


def _blocks(text: str) -> Iterator[tuple[int, str, bool]]:
    """The page's paragraphs, tables and blocks of code: where each begins, its text, whether it is code."""
    at, fence = 0, None
    begin = 0
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if fence is None and (mark or not line.strip()):
            if text[begin:at].strip():
                yield begin, text[begin:at], False
            begin = at if mark else at + len(line)
            fence = mark[1] if mark else None
        elif fence is not None and mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            yield begin, text[begin : at + len(line)], True
            begin, fence = at + len(line), None
        at += len(line)
    if text[begin:].strip():
        yield begin, text[begin:], fence is not None


def _speaks_of_performance(block: str, at: int, is_code: bool) -> bool:
    """Whether a word of performance stands in the number's sentence, line of code, or row or head of its table."""
    line_start = block.rfind("\n", 0, at) + 1
    line = block[line_start : block.find("\n", at) if "\n" in block[at:] else len(block)]
    if line.lstrip().startswith("|"):
        return bool(_WORDS.search(_prose(line)) or _WORDS.search(_prose(block.lstrip().split("\n", 1)[0])))
    if is_code:
        return bool(_WORDS.search(line))
    ends = [m.end() for m in re.finditer(r"[.!?;](?=\s)|\n(?=\s*[-*#\d])", block)]
    start = max((end for end in ends if end <= at), default=0)
    stop = min((end for end in ends if end > at), default=len(block))
    return bool(_WORDS.search(_prose(block[start:stop])))


def _prose(text: str) -> str:
    return re.sub(r"`[^`]*`", "", text)


def _bind_in_order(claims: Sequence[Claim], body: str) -> None:
    """Give claims the references of a comment, one a number; what is left over goes to the last, where it is refused."""
    level = _LEVEL.search(body)
    references = [Reference(m["path"], m["field"]) for m in _REFERENCE.finditer(body)]
    for i, claim in enumerate(claims):
        count = len(references) if i == len(claims) - 1 else len(claim.numbers)
        claim.references, references = tuple(references[:count]), references[count:]
        claim.require = level[0] if level else DEFAULT_LEVEL


def check_claims(claims: Sequence[Claim], root: Path) -> None:
    """Set the status of each claim from the evidence below ``root``."""
    for claim in claims:
        if not claim.references:
            continue
        try:
            _check(claim, root)
        except (FormatError, OSError) as error:
            claim.status, claim.why = "wrong", str(error)


def _check(claim: Claim, root: Path) -> None:
    first = claim.references[0]
    if not first.field:
        if not (root / first.path).is_file():
            raise FormatError("the evidence of a generated page is missing", where=first.path)
        claim.status = "generated"
        return
    if len(claim.references) != len(claim.numbers):
        raise FormatError("wrong number of references", expected=len(claim.numbers), got=len(claim.references))
    measured = [_value(reference, claim.require, root) for reference in claim.references]
    claim.values = tuple(_in_unit(v, r, claim.unit) for v, r in zip(measured, claim.references, strict=True))
    for text, value in zip(claim.numbers, claim.values, strict=True):
        if rendered(value, text) != text:
            raise FormatError("the evidence says otherwise", expected=rendered(value, text), got=text)
    claim.status = "policy" if all(r.path.endswith(".toml") for r in claim.references) else "backed"


def _value(reference: Reference, require: str, root: Path) -> float:
    """What evidence says: the median over the receipts of a pattern, all of which the judge must accept at the level."""
    files = sorted(root.glob(reference.path)) if not Path(reference.path).is_absolute() else []
    if not files or not all(file.resolve().is_relative_to(root.resolve()) for file in files):
        raise FormatError("no such evidence in this repository", where=reference.path)
    values = []
    for file in files:
        name = file.relative_to(root).as_posix()
        if file.suffix == ".toml":
            try:
                document: Any = tomllib.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise FormatError("not TOML", where=name, got=error) from None
        else:
            document = _receipt(file, name, require)
        values.append(_field(document, reference.field, name))
    return statistics.median(values)


def _receipt(file: Path, name: str, require: str) -> Any:
    if not DATED.search(name):
        raise FormatError("a claim needs a dated baseline", where=name, expected="docs/baselines/YYYY-MM-DD/…")
    data, policy = file.read_bytes(), read_policy(None)
    verdict = judge(data, policy, required=parse_requirements(require, policy))
    if verdict.exit_code != 0:
        reached = ", ".join(check.id for check in verdict.failed) or "the level is not reached"
        raise FormatError("the judge does not accept the receipt", where=name, expected=require, got=reached)
    return json.loads(data)


def _field(document: Any, field: str, name: str) -> float:
    for key, index in _STEP.findall(field):
        try:
            document = document[int(index)] if index else document[key]
        except (KeyError, IndexError, TypeError):
            raise FormatError("no such field", where=f"{name}#{field}") from None
    if isinstance(document, bool) or not isinstance(document, int | float):
        raise FormatError("not a number", where=f"{name}#{field}", got=document)
    return float(document)


def _in_unit(value: float, reference: Reference, unit: str) -> float:
    """A field's value in the unit of the text; a policy's field whose name tells no unit is in that already."""
    kind, size = _UNITS[unit]
    name = re.sub(r"\[\d+\]$", "", reference.field)
    known = next((what for ending, what in _FIELDS if name.endswith(ending)), None)
    if known is None and reference.path.endswith(".toml"):
        return value
    measured, factor = known or ("ratio", 1.0)
    if measured != kind:
        raise FormatError("the field is of another dimension", where=reference.field, expected=kind, got=measured)
    return value * factor / size


def rendered(value: float, like: str) -> str:
    """A value with the decimals and the separator of thousands of a number in a text."""
    decimals = len(like.partition(".")[2])
    separator = next((s for s in " , " if s in like), "")
    text = f"{value:,.{decimals}f}"
    return text.replace(",", separator)


def fix(text: str, claims: Sequence[Claim]) -> str:
    """The page's text with the numbers that its evidence gives, where a claim's evidence was read."""
    for claim in sorted(claims, key=lambda c: c.start, reverse=True):
        stop = claim.start + len(claim.text)
        part = text[claim.start : stop]
        for number, value in zip(claim.numbers, claim.values, strict=False):
            part = part.replace(number, rendered(value, number), 1)
        text = text[: claim.start] + part + text[stop:]
    return text
