"""A pull request's ledger: one Markdown file in which the runner keeps its own rows, and nobody else's words are touched."""

from __future__ import annotations

import re

from tritium.errors import FormatError

SECTIONS = ("gates", "hops", "decision")
TEMPLATE = """# Ledger of pull request {number}

## Gates

<!-- gates:start -->
| gate | status | evidence |
|---|---|---|
<!-- gates:end -->

## Hop log

<!-- hops:start -->
<!-- hops:end -->

## Decision

<!-- decision:start -->
<!-- decision:end -->
"""


def section(text: str, name: str) -> str:
    """What stands between the markers of a section. Errors: FormatError unless each marker stands there once, in order."""
    begin, end = _bounds(text, name)
    return text[begin:end]


def set_gate(text: str, gate: str, status: str, evidence: str) -> str:
    """Put the row of a gate: in place of its old one, else below the others."""
    row = f"| {gate} | {status} | {_cell(evidence)} |"
    lines = section(text, "gates").strip("\n").split("\n")
    at = [i for i, line in enumerate(lines) if re.match(rf"\|\s*{re.escape(gate)}\s*\|", line)]
    if at:
        lines = [row if i == at[0] else line for i, line in enumerate(lines) if i not in at[1:]]
    else:
        lines.append(row)
    return _replace(text, "gates", "\n".join(lines))


def add_hop(text: str, runner: str, sentence: str) -> str:
    """Append a numbered hop; one that says the same as the last is not repeated."""
    hops = [line for line in section(text, "hops").strip("\n").split("\n") if line]
    told = f"**{runner}** → {sentence}"
    if not hops or hops[-1].partition(". ")[2] != told:
        hops.append(f"{len(hops) + 1}. {told}")
    return _replace(text, "hops", "\n".join(hops))


def set_decision(text: str, body: str) -> str:
    """Put the decision in place of the old one."""
    return _replace(text, "decision", body.strip("\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _bounds(text: str, name: str) -> tuple[int, int]:
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise FormatError("the ledger's markers", where=name, expected=f"{start} … {end}, once", got="something else")
    return text.index(start) + len(start), text.index(end)


def _replace(text: str, name: str, body: str) -> str:
    begin, end = _bounds(text, name)
    return f"{text[:begin]}\n{body}\n{text[end:]}" if body else f"{text[:begin]}\n{text[end:]}"
