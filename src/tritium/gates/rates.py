"""E1: speeds follow from the raw times, in the right unit; stages add up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import HEAD, SCREENED_HEAD, Facts
from tritium.gates._policy import Policy
from tritium.receipts import registry

STAGE_OF = {"embedding": "embed", HEAD: "logits", **dict.fromkeys(SCREENED_HEAD, "logits")}


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """decode tok/s = (n − 1)/(t_n − t_1); prefill = t_1; a ratio near a power of 1000 is a unit.

    Of a batch: t_1 is when the last sequence had its first token, and n − 1 the tokens of all sequences after it.
    """
    if facts.evidence is None:
        yield check(
            "decode_rate", "E1", None, facts.tokens_per_second, None, "No raw token times stand beside the speed"
        )
        yield from (not_applicable(name, "E1", "no raw times") for name in ("prefill_rate", "units", "stages"))
        return
    tolerance = policy.get("arithmetic", "rate_tolerance")
    ratios = []
    claimed, n = facts.tokens_per_second, facts.n_decoded
    if not n and claimed is None:
        yield not_applicable("decode_rate", "E1", "first tokens have no decode rate")
    elif not n:
        yield check("decode_rate", "E1", False, claimed, None, "No token comes after the first")
    elif claimed is None:
        yield check("decode_rate", "E1", False, claimed, "a rate", "Tokens that follow the first have a rate")
    else:
        rate = n / (facts.last_ns - facts.first_ns) * 1e9
        ratios.append(claimed / rate)
        near = abs(claimed / rate - 1) <= tolerance
        yield check("decode_rate", "E1", near, claimed, rate, "(n − 1)/(t_n − t_1) of the raw times is another speed")
    prefill = facts.data["prefill_ms"]
    true = facts.first_ns / 1e6
    near = prefill is not None and abs(prefill / true - 1) <= tolerance
    yield check("prefill_rate", "E1", near, prefill, true, "The time to the first token is another one")
    ratios += [prefill / true] if prefill else []
    wrong = next((name for ratio in ratios for name in [_unit(ratio)] if name), None)
    yield check("units", "E1", wrong is None, wrong, "one unit", f"Looks like {wrong}: raw times are nanoseconds")
    yield _stages(facts, policy)


def _unit(ratio: float) -> str | None:
    """What a ratio near a power of 1000 is mistaken for."""
    if ratio <= 0:
        return None
    power = math.log10(ratio) / 3
    if round(power) == 0 or abs(power - round(power)) > 0.02:
        return None
    return {1: "µs written as ms", -1: "ms written as s or µs written as ns"}.get(
        round(power), f"a factor of 10^{3 * round(power)}"
    )


def _stages(facts: Facts, policy: Policy) -> Check:
    stages = facts.evidence["stages"] if facts.evidence else []
    wall = facts.last_ns
    total = sum(s["ns"] for s in stages)
    slack = policy.get("arithmetic", "stage_slack")
    if total > wall * (1 + slack):
        return check("stages", "E1", False, total, f"at most {wall}", "The stages take longer than the whole")
    for s in stages:
        percent = 100 * s["ns"] / wall
        if abs(percent - s["percent"]) > policy.get("arithmetic", "percent_tolerance"):
            return check("stages", "E1", False, s["percent"], percent, f"{s['name']}: not its share of the wall clock")
    if [s["name"] for s in stages] != ["embed", "forward", "logits", "sample"]:
        return check(
            "stages", "E1", False, ", ".join(s["name"] for s in stages), "embed, forward, logits, sample", "Each once"
        )
    counted = dict.fromkeys(("embed", "forward", "logits"), 0)
    for row in facts.ledger["steps"]:
        entry = registry.find(row["kernel"])
        counted[STAGE_OF.get(entry.op if entry else "", "forward")] += row["ns"]
    given = {s["name"]: s["ns"] for s in stages}
    for name, ns in counted.items():
        if given[name] != ns:
            return check("stages", "E1", False, given[name], ns, f"{name}: not what its steps took in the ledger")
    gaps, rows = 0, [iter(s["token_ns"]) for s in facts.sequences]
    for p, parts in zip(facts.run["passes"], facts.passes, strict=True):
        chosen = [next(rows[part.sequence], 0) for part in parts if part.is_due]
        gaps += max(chosen) - p["start_ns"] - p["ns"] if chosen else 0
    return check(
        "stages", "E1", given["sample"] == gaps, given["sample"], gaps, "sample: not the time from passes to tokens"
    )
