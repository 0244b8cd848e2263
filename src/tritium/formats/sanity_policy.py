"""What a sane model file looks like, as data: a TOML policy of ranges by architecture, file type and role of a tensor.

``data/sanity.toml`` is the built-in policy and the documentation of the form. Nothing here is guessed: an unknown key, a
range upside down or a pattern that could run away is refused with its place in the file.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tritium.errors import FormatError, UnsupportedError

BUILT_IN = Path(__file__).resolve().parents[1] / "data" / "sanity.toml"
SCHEMA = 1
MAX_POLICY_BYTES = 1 << 18
MAX_ENTRIES = 256
MAX_TEXT = 500
MAX_TENSOR_NAME = 256

CHECKS: dict[str, tuple[float, float]] = {
    "bits": (0, 64),
    "invalid_codes": (0, math.inf),
    "nonfinite": (0, math.inf),
    "rms": (0, math.inf),
    "scale": (-math.inf, math.inf),
    "zero_fraction": (0, 1),
    "zero_rows": (0, 1),
}
"""Name of a check → the smallest and largest value that it can have; ``sanity.Measurement`` says what each measures."""

Outside: TypeAlias = Literal["ATTENTION", "FAIL"]

# A quantifier stands behind a single character only, so that matching is polynomial, of a degree that MAX_QUANTIFIERS
# bounds; alternatives multiply, so they are bounded too.
MAX_PATTERN = 200
MAX_QUANTIFIERS = 3
MAX_ALTERNATIVES = 16
_ATOM = r"(?:[A-Za-z0-9_\-]|\\[.\-dw]|\.|\[[A-Za-z0-9_.\-]+\])"
_PATTERN = re.compile(rf"(?:{_ATOM}[*+?]?|[()|])+")


@dataclass(frozen=True, slots=True)
class Bound:
    """The range of one check, ends included, None for an open one, and the verdict on what lies outside."""

    check: str
    min: float | None
    max: float | None
    outside: Outside

    def holds(self, low: float, high: float) -> bool:
        """True if the values from ``low`` to ``high`` all lie within."""
        return (self.min is None or low >= self.min) and (self.max is None or high <= self.max)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of the tensors of one role: those whose whole name the pattern matches."""

    role: str
    tensors: re.Pattern[str]
    bounds: tuple[Bound, ...]
    why: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules for models of some architectures and file types, None for any. Of several rules for a tensor the first counts."""

    name: str
    architectures: frozenset[str] | None
    file_types: frozenset[int] | None
    rules: tuple[Rule, ...]
    why: str

    def rule(self, tensor: str) -> Rule | None:
        """The rule for a tensor, by its name. None for a name beyond MAX_TENSOR_NAME characters: it costs no matching."""
        if len(tensor) > MAX_TENSOR_NAME:
            return None
        return next((rule for rule in self.rules if rule.tensors.fullmatch(tensor)), None)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file: its name, the SHA-256 of its bytes, the bounds for every tensor, and rule sets in order of preference."""

    source: str
    sha256: str
    every: tuple[Bound, ...]
    sets: tuple[RuleSet, ...]

    def choose(self, architecture: str, file_type: int | None) -> RuleSet:
        """The first set for a model. Errors: UnsupportedError if there is none."""
        for candidate in self.sets:
            if candidate.architectures is not None and architecture not in candidate.architectures:
                continue
            if candidate.file_types is None or file_type in candidate.file_types:
                return candidate
        raise UnsupportedError(
            "no rule set for this model",
            where=self.source,
            got=f"architecture {architecture}, file type {file_type}",
            hint="A set without architectures and file_types is for any model",
        )


def read_policy(path: str | os.PathLike[str] = BUILT_IN) -> Policy:
    """Read a policy file, by default the built-in one.

    Errors: OSError if it cannot be read; FormatError names the place of the first thing wrong with it.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_POLICY_BYTES + 1)
    source = "built-in" if Path(path) == BUILT_IN else os.fspath(path)
    if len(data) > MAX_POLICY_BYTES:
        raise FormatError("policy is too long", where=source, expected=f"at most {MAX_POLICY_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise FormatError("not a TOML file", where=source, got=str(error) or "nesting too deep") from None
    top = _Table(document, source, {"schema", "every", "sets"})
    if top.require("schema") != SCHEMA or isinstance(document["schema"], bool):
        raise top.error("unknown schema", "schema", expected=SCHEMA, got=repr(document["schema"]))
    every = _bounds(_Table(document.get("every", {}), f"{source}: every", set(CHECKS)))
    sets = tuple(_rule_set(value, where) for value, where in top.entries("sets"))
    top.refuse_twice("sets", [rules.name for rules in sets])
    return Policy(source, hashlib.sha256(data).hexdigest(), every, sets)


class _Table:
    """One table of a policy: its keys are known, its values typed, and its errors say where it stands."""

    def __init__(self, value: object, where: str, allowed: set[str]) -> None:
        if not isinstance(value, dict):
            raise FormatError("policy: wrong type", where=where, expected="a table", got=_kind(value))
        self.values: dict[str, Any] = value
        self.where = where
        for key in value:
            if key not in allowed:
                raise self.error("unknown key", key, expected=f"one of {', '.join(sorted(allowed))}")

    def error(self, what: str, key: str, *, expected: object = None, got: object = None) -> FormatError:
        return FormatError(f"policy: {what}", where=f"{self.where}: {key[:MAX_TEXT]}", expected=expected, got=got)

    def require(self, key: str) -> Any:
        if key not in self.values:
            raise self.error("missing key", key)
        return self.values[key]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.require(key) if default is None else self.values.get(key, default)
        if (
            not isinstance(value, str)
            or not (value or default == "")
            or len(value) > MAX_TEXT
            or not value.isprintable()
        ):
            expected = f"1 to {MAX_TEXT} printable characters"
            raise self.error("wrong value", key, expected=expected, got=_kind(value))
        return value

    def choices(self, key: str, kind: type) -> frozenset[Any] | None:
        if key not in self.values:
            return None
        value = self.values[key]
        if not isinstance(value, list) or not value or any(type(entry) is not kind for entry in value):
            expected = "a list, not empty, of " + ("strings" if kind is str else "integers")
            raise self.error("wrong value", key, expected=expected, got=_kind(value))
        return frozenset(value)

    def entries(self, key: str) -> list[tuple[object, str]]:
        value = self.require(key)
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_ENTRIES:
            expected = f"1 to {MAX_ENTRIES} tables"
            raise self.error("wrong value", key, expected=expected, got=_kind(value))
        return [(entry, f"{self.where}: {key}[{i}]") for i, entry in enumerate(value)]

    def number(self, key: str, low: float, high: float) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        expected = f"a number from {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error("wrong type", key, expected=expected, got=_kind(value))
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or not low <= number <= high:
            raise self.error("out of range", key, expected=expected, got=number)
        return number

    def refuse_twice(self, key: str, names: list[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise self.error("name occurs twice", key, got=name)


def _kind(value: object) -> str:
    """A value for an error message: its type, and the value itself where it is short."""
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 60 else f"{type(value).__name__} of {len(text)} characters"


def _rule_set(value: object, where: str) -> RuleSet:
    table = _Table(value, where, {"name", "architectures", "file_types", "why", "rules"})
    rules = tuple(_rule(entry, place) for entry, place in table.entries("rules"))
    table.refuse_twice("rules", [rule.role for rule in rules])
    return RuleSet(
        table.text("name"),
        table.choices("architectures", str),
        table.choices("file_types", int),
        rules,
        table.text("why", ""),
    )


def _rule(value: object, where: str) -> Rule:
    table = _Table(value, where, {"role", "tensors", "why", *CHECKS})
    bounds = _bounds(table)
    if not bounds:
        raise table.error("rule without a check", table.text("role"), expected=f"one of {', '.join(CHECKS)}")
    return Rule(table.text("role"), _pattern(table), bounds, table.text("why", ""))


def _bounds(table: _Table) -> tuple[Bound, ...]:
    return tuple(_bound(check, table) for check in CHECKS if check in table.values)


def _bound(check: str, table: _Table) -> Bound:
    fields = _Table(table.values[check], f"{table.where}: {check}", {"min", "max", "outside"})
    low, high = fields.number("min", *CHECKS[check]), fields.number("max", *CHECKS[check])
    if low is None and high is None:
        raise fields.error("range without an end", "min", expected="min, max or both")
    if low is not None and high is not None and low > high:
        raise fields.error("range is upside down", "min", expected=f"at most {high:g}", got=f"{low:g}")
    outside = fields.values.get("outside", "ATTENTION")
    if outside not in ("ATTENTION", "FAIL"):
        raise fields.error("unknown verdict", "outside", expected="ATTENTION or FAIL", got=_kind(outside))
    return Bound(check, low, high, outside)


def _pattern(table: _Table) -> re.Pattern[str]:
    text = table.text("tensors")
    expected = None
    if len(text) > MAX_PATTERN:
        expected = f"at most {MAX_PATTERN} characters"
    elif not _PATTERN.fullmatch(text):
        expected = r"letters, digits, _ - . \. \d \w [sets] (groups) and |, with * + ? behind single characters only"
    elif len(re.findall(r"[*+]", text)) > MAX_QUANTIFIERS or text.count("|") > MAX_ALTERNATIVES:
        expected = f"at most {MAX_QUANTIFIERS} of * and +, and {MAX_ALTERNATIVES} of |"
    if expected is not None:
        raise table.error("pattern", "tensors", expected=expected, got=repr(text[:MAX_PATTERN]))
    try:
        return re.compile(text, re.ASCII)
    except re.error as error:
        raise table.error("pattern", "tensors", got=f"{text!r}: {error}") from None
