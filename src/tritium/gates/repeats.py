"""E1: deterministic is what was repeated with the same outcome."""

from __future__ import annotations

from collections.abc import Iterator

from tritium.gates._check import Check, check
from tritium.gates._facts import Facts, outputs_hash
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Two runs or more, equal hashes of tokens and logits; the first is the one on record."""
    claimed = facts.data.get("deterministic")
    if facts.evidence is None:
        yield check("repeats", "E1", None, claimed, "two runs with equal hashes", "Nothing shows it")
        return
    repeats = facts.evidence["repeats"]
    each = facts.sequences
    outputs, logits = (outputs_hash([s[name] for s in each]) for name in ("output_sha256", "logits_sha256"))
    recorded: dict[str, object] = {"output_sha256": outputs, "logits_sha256": logits, "n_tokens": facts.n_ids,
                                   "decode_ns": facts.last_ns - facts.first_ns}  # fmt: skip
    recorded |= {"n_decoded": facts.n_decoded} if len(each) > 1 else {}
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
