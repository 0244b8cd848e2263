"""A check's result, and the words for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["PASS", "FAIL", "INCONCLUSIVE", "N-A"]
Value = str | int | float | bool | None

LONGEST = 400
"""Characters of a value, bound or hint that are told: a receipt may hold megabytes of them."""
LEVELS = ("E0", "E1", "E2", "E3", "E4", "E5", "E6")


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found: ``value`` against ``bound``, and what to do about it.

    FAIL refuses the receipt; INCONCLUSIVE caps the level of the claims that the check belongs to; N-A means that the receipt
    claims nothing of the kind.
    """

    id: str
    level: str
    status: Status
    value: Value
    bound: Value
    hint: str

    def as_json(self) -> dict[str, Any]:
        """All of it by name."""
        return asdict(self)


def check(
    name: str, level: str, passes: bool | None, value: object = None, bound: object = None, hint: str = ""
) -> Check:
    """A check that passes, fails, or (None) cannot be decided."""
    status: Status = "INCONCLUSIVE" if passes is None else "PASS" if passes else "FAIL"
    return Check(name, level, status, _plain(value), _plain(bound), _brief(hint) if status != "PASS" else "")


def not_applicable(name: str, level: str, why: str) -> Check:
    """A check of something that the receipt does not claim."""
    return Check(name, level, "N-A", None, None, why)


def _plain(value: object) -> Value:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, (int, bool)) or value is None:
        return value
    return _brief(str(value))


def _brief(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
