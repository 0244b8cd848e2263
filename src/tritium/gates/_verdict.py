"""Put the checks together: levels by claim, and whether the receipt is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritium.gates._check import LEVELS, Check
from tritium.gates._policy import Policy

ACCEPTED, REJECTED, INCONCLUSIVE = 0, 1, 8
BY_GRAVITY = (REJECTED, 2, 3, INCONCLUSIVE, ACCEPTED)


@dataclass(frozen=True, slots=True)
class Claim:
    """The level at which a claim stands (None: not even E0), and in a few words why not higher, or what it says."""

    name: str
    level: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """``exit_code``: 0 accepted, 1 rejected, 8 nothing failed but a required level was not reached."""

    exit_code: int
    claims: tuple[Claim, ...]
    checks: tuple[Check, ...]
    policy_sha256: str
    receipt_sha256: str
    missing: tuple[str, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that refused it."""
        return tuple(c for c in self.checks if c.status == "FAIL")

    @property
    def word(self) -> str:
        """accepted, rejected or inconclusive."""
        return {ACCEPTED: "accepted", REJECTED: "rejected", INCONCLUSIVE: "inconclusive"}[self.exit_code]

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return {
            "verdict": self.word,
            "policy_sha256": self.policy_sha256,
            "receipt_sha256": self.receipt_sha256,
            "claims": {c.name: {"level": c.level, "note": c.note} for c in self.claims},
            "missing": list(self.missing),
            "checks": [c.as_json() for c in self.checks],
        }

    def lines(self) -> list[str]:
        """The verdict as a table for people: claims, then what is wrong or in doubt."""
        out = [f"{'claim':<13}{'level':<7}note"]
        out += [f"{c.name:<13}{c.level or '–':<7}{c.note}".rstrip() for c in self.claims]
        troubled = [c for c in self.checks if c.status in ("FAIL", "INCONCLUSIVE")]
        for status in ("FAIL", "INCONCLUSIVE"):
            for c in troubled:
                if c.status == status:
                    found = [f"got {c.value}"] if c.value is not None else []
                    found += [f"expected {c.bound}"] if c.bound is not None else []
                    out.append(f"{status} {c.level} {c.id}: {', '.join(found)}{'. ' if found else ''}{c.hint}".rstrip())
        out += [f"REQUIRED {text}" for text in self.missing]
        out.append(f"{self.word} · policy {self.policy_sha256[:16]} · receipt {self.receipt_sha256[:16]}")
        return [printable(line) for line in out]


def printable(text: str) -> str:
    """The text with what moves a terminal's cursor, or turns its direction, told as escapes: receipts may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def worst(codes: Iterable[int]) -> int:
    """The exit code of several verdicts: a rejection first, then what could not be read, then what was not reached."""
    return min(codes, key=BY_GRAVITY.index)


def conclude(
    checks: Sequence[Check], policy: Policy, required: Mapping[str, str], receipt_sha256: str, notes: Mapping[str, str]
) -> Verdict:
    """Levels and acceptance from the results of all checks."""
    claims = tuple(_claim(name, table, checks, notes.get(name, "")) for name, table in policy.claims.items())
    reached = {c.name: c.level for c in claims}
    missing = tuple(
        f"{name}={level}: reached {reached[name] or 'nothing'}"
        for name, level in required.items()
        if reached[name] is None or LEVELS.index(reached[name] or "E0") < LEVELS.index(level)
    )
    failed = any(c.status == "FAIL" for c in checks)
    code = REJECTED if failed else INCONCLUSIVE if missing else ACCEPTED
    return Verdict(code, claims, tuple(checks), policy.sha256, receipt_sha256, missing)


def _claim(name: str, table: Mapping[str, Sequence[str]], checks: Sequence[Check], note: str) -> Claim:
    reached: str | None = None
    for level in LEVELS:
        wanted = table[level]
        if not wanted:
            continue
        mine = [c for c in checks if (c.level == level and "*" in wanted) or c.id in wanted]
        bad = [c for c in mine if c.status in ("FAIL", "INCONCLUSIVE")]
        if bad or not any(c.status == "PASS" for c in mine):
            why = f"{level}: {bad[0].id} {bad[0].status.lower()}" if bad else f"{level}: nothing claimed"
            return Claim(name, reached, "; ".join(part for part in (note, why) if part))
        reached = level
    return Claim(name, reached, note)
