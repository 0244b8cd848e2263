"""E1: deterministic is what was repeated with the same outcome."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check
from tritium.gates._facts import Facts
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Two runs or more, equal hashes of tokens and logits; the first is the one on record."""
    claimed = facts.data.get("deterministic")
    if facts.evidence is None:
        yield check("repeats", "E1", None, claimed, "two runs with equal hashes", "Nothing shows it")
        return
    repeats, run = facts.evidence["repeats"], facts.run
    times = run["token_ns"]
    recorded = {"output_sha256": run["output_sha256"], "logits_sha256": run["logits_sha256"],
                "n_tokens": len(run["token_ids"]), "decode_ns": times[-1] - times[0]}  # fmt: skip
    if repeats[0] != recorded:
        yield check(
            "repeats", "E1", False, str(repeats[0])[:60], str(recorded)[:60], "The first run is not the recorded one"
        )
        return
    outcomes = {(r["output_sha256"], r["logits_sha256"], r["n_tokens"]) for r in repeats}
    equal = len(repeats) > 1 and len(outcomes) == 1 and repeats[0]["logits_sha256"] is not None
    if claimed != equal:
        yield check(
            "repeats", "E1", False, claimed, equal, f"{len(repeats)} runs with {len(outcomes)} outcomes say otherwise"
        )
    elif not claimed:
        why = "Run it twice: --repeats 2" if len(outcomes) == 1 else "The runs differ"
        yield check("repeats", "E1", None, f"{len(repeats)} run(s), {len(outcomes)} outcome(s)", "two equal runs", why)
    else:
        spread = [r["decode_ns"] for r in repeats if r["n_tokens"] > 1]
        apart = bool(spread) and max(spread) > 20 * max(min(spread), 1)
        yield check("repeats", "E1", None if apart else True, f"{min(spread, default=0)} to {max(spread, default=0)} ns",
                    "runs of one kind", "The repeats are too far apart to be of one machine")  # fmt: skip
