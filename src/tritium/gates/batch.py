"""E1: sequences that were decoded together are declared, and were together."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """As many sequences as declared, each once in a pass and several in some; of one sequence, no parts."""
    if facts.evidence is None:
        yield not_applicable("batch", "E1", "no evidence")
        return
    passes = facts.run["passes"]
    said = facts.evidence.get("batch")
    if said is None:
        apart = next((i for i, p in enumerate(passes) if "parts" in p), None)
        if apart is None:
            yield not_applicable("batch", "E1", "one sequence")
        else:
            yield check("batch", "E1", False, f"pass {apart} of several sequences", "a batch on record",
                        "Its speed would be that of several, told as one")  # fmt: skip
        return
    yield _declared(facts, said["n_sequences"])


def _declared(facts: Facts, n: int) -> Check:
    found, bound = len(facts.sequences), "the sequences that it lists"
    if n != found:
        return check("batch", "E1", False, n, found, "It declares other sequences than it lists")
    if facts.evidence is None or facts.evidence["version"] == "1.1":
        return check("batch", "E1", False, "1.1", "evidence 1.2", "Evidence of this version knows no batches")
    largest = 0
    for i, p in enumerate(facts.run["passes"]):
        parts = p.get("parts", ())
        numbers = [number for number, _, _ in parts]
        if sum(count for _, _, count in parts) != p["n_tokens"] or any(count < 1 for _, _, count in parts):
            return check("batch", "E1", False, f"pass {i}", f"{p['n_tokens']} tokens", "Its parts are not the pass")
        if len(set(numbers)) != len(numbers) or max(numbers) >= n:
            return check("batch", "E1", False, f"pass {i}: {max(numbers)}", bound, "No such sequence, or one twice")
        if p["position"] != parts[0][1]:
            return check("batch", "E1", False, p["position"], parts[0][1], f"pass {i}: the position of its first part")
        largest = max(largest, len(numbers))
    return check("batch", "E1", largest > 1, largest, "2 or more in a pass", "They ran one after the other")
