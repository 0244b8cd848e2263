"""The environment: one table of variables, and the only place that reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: its name, how its text is read, what unset means, and what it does."""

    name: str
    kind: Literal["name", "count", "number", "path", "flag"]
    default: str
    meaning: str


VARIABLES = (
    Variable(
        "TRITIUM_ISA", "name", "the best that works", "Instruction set of the native core: a row of csrc/isa.list."
    ),
    Variable("TRITIUM_THREADS", "count", "RAYON_NUM_THREADS", "Threads of the native core, at least 1."),
    Variable("RAYON_NUM_THREADS", "count", "one a core", "Threads where TRITIUM_THREADS is not set; 0 is one a core."),
    Variable("BITNET_GGUF", "path", "demo", "The model of commands that are given none."),
    Variable("BITNET_SEED", "number", "0", "Key of the random numbers where no --seed is given."),
    Variable(
        "BITNET_DETERMINISTIC",
        "flag",
        "off",
        "1: a receipt is written after two runs or more, and only if they give the same tokens and logits.",
    ),
    Variable(
        "BITNET_STRICT_MODE",
        "flag",
        "off",
        "1: a run whose receipt a judge would reject, or that used a fallback, an unquantized linear layer or an unknown kernel, "
        "fails with exit 5 and writes no receipt.",
    ),
    Variable(
        "BITNET_TRACE_TIMING",
        "flag",
        "off",
        "1: every step of a generating command prints a line on stderr: microseconds of embed, forward, logits and sample.",
    ),
    Variable(
        "BITNET_FLAMEGRAPH_TOOL",
        "name",
        "builtin",
        "What flamegraph draws from, where no --tool is given: builtin, perf or py-spy.",
    ),
    Variable("TRITIUM_CACHE", "path", "$XDG_CACHE_HOME/tritium", "Folder for files that can be made again."),
    Variable(
        "TRITIUM_WEIGHT_CACHE",
        "flag",
        "on",
        "0: packed weights of large models are not kept in the cache folder for the next load.",
    ),
    Variable("XDG_CACHE_HOME", "path", "~/.cache", "Parent of the cache folder where TRITIUM_CACHE is not set."),
    Variable(
        "BITNET_SKIP_BUILD", "flag", "off", "1: commands that compile leave that out, and say that it was not measured."
    ),
    Variable("RUNNER_NAME", "name", "local", "Who runs a gate, in its reports; set by GitHub."),
    Variable("GITHUB_STEP_SUMMARY", "path", "none", "File that gates append their report to; set by GitHub."),
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
    if text:
        return _integer("TRITIUM_THREADS", text, 1)
    text = _text("RAYON_NUM_THREADS")
    return (_integer("RAYON_NUM_THREADS", text, 0) or None) if text else None


def model() -> str | None:
    """The model asked for, or None."""
    return _text("BITNET_GGUF") or None


def seed() -> int | None:
    """The key of the random numbers asked for, or None. Errors: ValueError if it is not an integer of at least 0."""
    text = _text("BITNET_SEED")
    return _integer("BITNET_SEED", text, 0) if text else None


def is_deterministic() -> bool:
    """True where a receipt needs equal repeats."""
    return _is_on(_text("BITNET_DETERMINISTIC"))


def is_strict() -> bool:
    """True where a run that a judge would reject has to fail."""
    return _is_on(_text("BITNET_STRICT_MODE"))


def traces_timing() -> bool:
    """True where every step is to print where its time went."""
    return _is_on(_text("BITNET_TRACE_TIMING"))


def flamegraph_tool() -> str | None:
    """What flame graphs are drawn from, or None."""
    return _text("BITNET_FLAMEGRAPH_TOOL") or None


def skips_build() -> bool:
    """True where nothing is to be compiled."""
    return _is_on(_text("BITNET_SKIP_BUILD"))


def runner() -> str:
    """Who runs this."""
    return _text("RUNNER_NAME") or "local"


def step_summary() -> Path | None:
    """The file that a workflow shows as the summary of a step, None outside of one."""
    text = _text("GITHUB_STEP_SUMMARY")
    return Path(text) if text else None


def for_child(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that this one starts: its own and more."""
    return {**os.environ, **more}


def recorded() -> dict[str, str]:
    """The variables that are set and tell of a run or its tools, as text: what a receipt tells of the environment."""
    none = ("NO_COLOR", "XDG_CACHE_HOME", "TRITIUM_CACHE", "TRITIUM_WEIGHT_CACHE", "RUNNER_NAME", "GITHUB_STEP_SUMMARY")
    names = [v.name for v in VARIABLES if v.name not in none]
    return {name: _text(name) for name in names if _text(name)}


def _is_on(text: str) -> bool:
    return text.lower() not in ("", "0", "false", "off", "no")


def _integer(name: str, text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {text!r}")
    return int(text)


def weight_cache() -> bool:
    """True where packed weights are kept for the next load."""
    text = _text("TRITIUM_WEIGHT_CACHE")
    return not text or _is_on(text)


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
