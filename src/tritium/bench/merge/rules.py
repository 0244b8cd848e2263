"""The rules of the gates: limits, routing, categories of files. A TOML file; the shipped one is ``gates.toml``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tritium.bench.verdict import Word
from tritium.errors import FormatError

SHIPPED = Path(__file__).with_name("gates.toml")
SECTIONS = ("slo", "shape", "routing", "category", "subsystem")


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of files; ``group`` is the coarser one that a category belongs to."""

    name: str
    patterns: tuple[str, ...]
    group: str = ""

    def holds(self, path: str) -> bool:
        """Whether a path of the repository belongs here."""
        return any(_pattern(pattern).fullmatch(path) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules. ``slo`` are limits by name, ``shape`` the sizes that the latency is promised for, ``routing`` stages by flow."""

    slo: Mapping[str, float]
    shape: Mapping[str, int]
    routing: Mapping[str, Mapping[str, str]]
    categories: tuple[Group, ...]
    subsystems: tuple[Group, ...]

    def route(self, flow: str, word: Word) -> str:
        """The stage that follows. Errors: FormatError for a flow or a word without one."""
        try:
            return self.routing[flow][word]
        except KeyError:
            raise FormatError("no route in the rules", where=f"routing.{flow}", got=word) from None


def read_rules(path: Path | None = None) -> Rules:
    """Read the rules of ``path``, or the shipped ones. Errors: FormatError; OSError."""
    path = path or SHIPPED
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError("not TOML", where=str(path), got=error) from None
    missing = [name for name in SECTIONS if name not in document]
    unknown = sorted(set(document) - set(SECTIONS))
    if missing or unknown:
        raise FormatError(
            "sections of the rules", where=str(path), expected=", ".join(SECTIONS), got=", ".join(document)
        )
    shipped = {} if path == SHIPPED else tomllib.loads(SHIPPED.read_text(encoding="utf-8"))["slo"]
    lacking = sorted(set(shipped) - set(document["slo"]))
    if lacking:
        raise FormatError("limits are missing", where=f"{path}: slo", expected=", ".join(lacking))
    return Rules(
        document["slo"],
        document["shape"],
        document["routing"],
        _groups(document["category"]),
        _groups(document["subsystem"]),
    )


def _groups(rows: list[dict[str, Any]]) -> tuple[Group, ...]:
    return tuple(Group(row["name"], tuple(row["patterns"]), row.get("group", "")) for row in rows)


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    """A glob of paths as an expression: ``**`` any folders, ``*`` within one."""
    parts = re.split(r"(\*\*/|\*\*|\*)", text)
    as_expression = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    return re.compile("".join(as_expression.get(part, re.escape(part)) for part in parts), re.DOTALL)
