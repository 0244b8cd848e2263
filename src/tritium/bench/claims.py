"""Claims of performance in Markdown, and the evidence each is bound to.

A claim is a quantity of performance (see ``quantities``). A comment after it, or in front of a block of code for the
claims in that block, binds it::

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

from tritium.bench.quantities import Unit, bound_quantity, find_quantities, rendered
from tritium.errors import FormatError
from tritium.gates import judge, parse_requirements, read_policy

DEFAULT_LEVEL = "speed=E2"
DATED = re.compile(r"(?:^|/)docs/baselines/(?:\d{4}-\d{2}-\d{2}/|\d{8}-)")

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
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
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
    unit: Unit
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
    lead: list[Claim] = []  # what the comments of the paragraph before bind, if not a claim of their own
    for start, block, is_code in _blocks(text):
        found = _claims_of(path, text, start, block, is_code)
        if is_code and found and lead:
            _bind_in_order(found, lead.pop().text)
        claims += lead
        lead = []
        for comment in _BOUND.finditer(block):
            at = start + comment.start()
            before = [c for c in found if c.start < at and not c.references]
            if before:
                _bind_in_order(before[-1:], comment["body"])
            elif not is_code:
                lead.append(Claim(path, text.count("\n", 0, at) + 1, comment["body"], at, (), Unit("nothing", 1.0)))
                lead[-1].why = "binds no number"
        claims += found
    claims += lead
    generated = _GENERATED.search(text)
    for claim in claims if generated else ():
        claim.references = claim.references or (Reference(generated["path"], ""),) if generated else ()
    return claims


def _claims_of(path: Path, text: str, start: int, block: str, is_code: bool) -> list[Claim]:
    """The claims of a block that begins at ``start``: quantities of performance, and what a comment binds."""
    hidden = _COMMENT.sub(lambda m: " " * len(m[0]), block)
    quantities = find_quantities(hidden, is_code=is_code)
    taken = {at for q in quantities for at in range(q.start, q.start + len(q.text))}
    for comment in _BOUND.finditer(block):
        bound = bound_quantity(hidden[: comment.start()])
        if bound is not None and bound.start not in taken:
            quantities.append(bound)
    return [
        Claim(path, text.count("\n", 0, start + q.start) + 1, q.text, start + q.start, q.numbers, q.unit)
        for q in sorted(quantities, key=lambda q: q.start)
    ]


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


def _in_unit(value: float, reference: Reference, unit: Unit) -> float:
    """A field's value in the unit of the text; a policy's field whose name tells no unit is in that already."""
    name = re.sub(r"\[\d+\]$", "", reference.field)
    known = next((what for ending, what in _FIELDS if name.endswith(ending)), None)
    if known is None and reference.path.endswith(".toml"):
        return value
    measured, factor = known or ("ratio", 1.0)
    if measured != unit.kind:
        raise FormatError("the field is of another dimension", where=reference.field, expected=unit.kind, got=measured)
    return value * factor / unit.size


def fix(text: str, claims: Sequence[Claim]) -> str:
    """The page's text with the numbers that its evidence gives, where a claim's evidence was read."""
    for claim in sorted(claims, key=lambda c: c.start, reverse=True):
        stop = claim.start + len(claim.text)
        part = text[claim.start : stop]
        for number, value in zip(claim.numbers, claim.values, strict=False):
            part = part.replace(number, rendered(value, number), 1)
        text = text[: claim.start] + part + text[stop:]
    return text
