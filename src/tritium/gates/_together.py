"""E1 for several receipts: they must not contradict, nor repeat, one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tritium.errors import FormatError
from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy
from tritium.receipts import schema, strict_json


def compare(receipts: Sequence[bytes], names: Sequence[str], policy: Policy) -> Iterator[Check]:
    """Speeds of one model; times that were copied. Malformed receipts are left out."""
    read = []
    for data, name in zip(receipts, names, strict=True):
        try:
            value = strict_json.loads(data)
        except FormatError:
            continue
        if isinstance(value, dict) and next(schema.violations(value), None) is None:
            read.append((value, name))
    yield _spread(read, policy.get("publishing", "speed_spread"))
    yield _copies(read)


def _spread(read: Sequence[tuple[dict[str, Any], str]], most: float) -> Check:
    speeds: dict[tuple[object, ...], list[tuple[float, str]]] = {}
    for value, name in read:
        speed = Facts(value, datetime.now(UTC)).tokens_per_second
        model = value.get("model", {})
        # With raw times, a slow run on a busy machine is shown to be one; without, many speeds are many guesses.
        if speed and "evidence" not in value and (model.get("sha256") or model.get("path")):
            key = (model.get("sha256") or model["path"], value["backend"], value["environment"].get("OS"))
            speeds.setdefault(key, []).append((speed, name))
    groups = [sorted(group) for group in speeds.values() if len(group) > 1]
    if not groups:
        return not_applicable("speed_spread", "E1", "no two bare receipts of one model")
    worst = max(groups, key=lambda group: group[-1][0] / group[0][0])
    (low, slow), (high, fast) = worst[0], worst[-1]
    return check("speed_spread", "E1", high / low <= most, f"{low:g} ({slow}) to {high:g} tok/s ({fast})",
                 f"within a factor of {most:g}", "One model on one machine has one speed: most were not measured")  # fmt: skip


def _copies(read: Sequence[tuple[dict[str, Any], str]]) -> Check:
    times: dict[tuple[int, ...], str] = {}
    for value, name in read:
        evidence = value.get("evidence")
        if evidence is None:
            continue
        vector = tuple(evidence["run"]["token_ns"])
        if vector in times:
            return check("copied_times", "E1", False, f"{name} and {times[vector]}", "times of their own",
                         "No two runs take the same nanoseconds")  # fmt: skip
        times[vector] = name
    return check("copied_times", "E1", True) if times else not_applicable("copied_times", "E1", "no raw times")
