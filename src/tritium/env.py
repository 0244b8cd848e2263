"""The environment: one table of variables, and the only place that reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: its name, how its text is read, what unset means, and what it does."""

    name: str
    kind: Literal["name", "count", "path", "flag"]
    default: str
    meaning: str


VARIABLES = (
    Variable(
        "TRITIUM_ISA", "name", "the best that works", "Instruction set of the native core: a row of csrc/isa.list."
    ),
    Variable("TRITIUM_THREADS", "count", "one a core", "Threads of the native core, at least 1."),
    Variable("TRITIUM_CACHE", "path", "$XDG_CACHE_HOME/tritium", "Folder for files that can be made again."),
    Variable("XDG_CACHE_HOME", "path", "~/.cache", "Parent of the cache folder where TRITIUM_CACHE is not set."),
    Variable("NO_COLOR", "flag", "off", "Any value but the empty one turns color off."),
)

_NAMES = frozenset(variable.name for variable in VARIABLES)


def _text(name: str) -> str:
    """The stripped value of a variable of the table, empty where it is not set."""
    if name not in _NAMES:
        raise KeyError(name)
    return os.environ.get(name, "").strip()


def isa() -> str | None:
    """The instruction set asked for by name, or None."""
    return _text("TRITIUM_ISA") or None


def threads() -> int | None:
    """The number of threads asked for, or None. Errors: ValueError if it is not an integer of at least 1."""
    text = _text("TRITIUM_THREADS")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"TRITIUM_THREADS: expected an integer of at least 1, got {text!r}")
    return int(text)


def cache_folder() -> Path:
    """The folder for files that can be made again; it may not exist yet."""
    text = _text("TRITIUM_CACHE")
    if text:
        return Path(text).expanduser()
    parent = _text("XDG_CACHE_HOME")
    return (Path(parent) if parent else Path.home() / ".cache") / "tritium"


def no_color() -> bool:
    """True where output must carry no color."""
    return bool(_text("NO_COLOR"))
