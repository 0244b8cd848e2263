"""E1: the trace covers the positions that the run forwarded, no more and no fewer."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """One leaf for each position from the first that was not cached to the last but one."""
    if facts.evidence is None:
        return
    said = facts.evidence["trace"]
    if said is None:
        yield check(
            "trace", "E1", None, None, "a trace root", "The run committed to nothing that a replay could compare"
        )
        return
    forwarded = [s["n_prompt"] + len(s["token_ids"]) - 1 - s["n_cached"] for s in facts.sequences]
    expected = (facts.run["n_cached"], sum(forwarded))
    found = (said["first"], said["n_leaves"])
    yield check("trace", "E1", found == expected, str(found), str(expected), "Positions and leaves do not agree")
