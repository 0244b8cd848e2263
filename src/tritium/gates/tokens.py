"""E1: as many tokens as ids, each of the vocabulary, ended where and why it is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tritium.gates._check import Check, check, not_applicable
from tritium.gates._facts import Facts, ids_hash
from tritium.gates._policy import Policy


def gate(facts: Facts, policy: Policy) -> Iterator[Check]:
    """Counts, ids and their hashes, the end."""
    generated, requested = facts.data.get("tokens_generated"), facts.data.get("tokens_requested")
    if facts.evidence is None:
        if isinstance(generated, int) and isinstance(requested, int):
            yield check(
                "token_count", "E1", generated <= requested, generated, f"at most {requested}", "More than asked for"
            )
        else:
            yield not_applicable("token_count", "E1", "no counts")
        yield from (not_applicable(name, "E1", "no ids") for name in ("token_ids", "finish"))
        return
    each = facts.sequences
    n_times, n_prompt = (sum(len(s[name]) for s in each) for name in ("token_ns", "prompt_ids"))
    yield check(
        "token_count", "E1",
        facts.n_ids == generated == facts.n_outputs
        and requested == sum(s["max_tokens"] for s in each)
        and all(
            len(s["token_ids"]) == len(s["token_ns"]) <= s["max_tokens"] and len(s["prompt_ids"]) == s["n_prompt"]
            for s in each
        ),
        f"{generated} tokens, {facts.n_ids} ids, {n_times} times, {facts.n_outputs} rows of logits, {n_prompt} prompt ids",
        f"equal counts, at most {requested}; {sum(s['n_prompt'] for s in each)} prompt ids",
        "Each token has an id, a time and a row of logits",
    )  # fmt: skip
    yield next(filter(_is_bad, (_ids(facts, s) for s in each)), check("token_ids", "E1", True))
    yield next(filter(_is_bad, (_finish(facts, s) for s in each)), check("finish", "E1", True))


def _is_bad(result: Check) -> bool:
    return result.status != "PASS"


def _ids(facts: Facts, said: Mapping[str, Any]) -> Check:
    vocabulary = facts.config["vocab_size"]
    for ids, name in ((said["prompt_ids"], "prompt_sha256"), (said["token_ids"], "output_sha256")):
        if ids_hash(ids) != said[name]:
            return check(
                "token_ids", "E1", False, ids_hash(ids)[:16], said[name][:16], f"{name}: the ids have another hash"
            )
        if max(ids) >= vocabulary:
            return check("token_ids", "E1", False, max(ids), f"below {vocabulary}", "The vocabulary has no such id")
    ends = [*facts.run["end_ids"], *(facts.evidence or {})["sampling"]["stop_ids"]]
    good = max(ends, default=0) < vocabulary
    return check(
        "token_ids", "E1", good, max(ends, default=0), f"below {vocabulary}", "The vocabulary has no such end id"
    )


def _finish(facts: Facts, said: Mapping[str, Any]) -> Check:
    ids, ends = said["token_ids"], set(facts.run["end_ids"])
    sampling = facts.evidence["sampling"] if facts.evidence else {}
    stops = set(sampling["stop_ids"]) | (set() if facts.run["ignore_eos"] else ends)
    early = [i for i, token in enumerate(ids[:-1]) if token in stops]
    if early:
        return check("finish", "E1", False, f"end token {ids[early[0]]} at {early[0]}", "an end token once, and last",
                     "The model had ended; what follows was not asked for")  # fmt: skip
    full = len(ids) == said["max_tokens"] or said["n_prompt"] + len(ids) == facts.plan["max_context"]
    if said["finish_reason"] == "length":
        return check("finish", "E1", full and ids[-1] not in stops, f"{len(ids)} tokens, length", f"{said['max_tokens']} tokens",
                     "It stopped early, or at an end token, and does not say why")  # fmt: skip
    reason = ids[-1] in stops or ("stop string" in said["finish_detail"] and bool(sampling["stop"]))
    return check("finish", "E1", reason, said["finish_detail"], "an end token, a stop id or a stop string",
                 "Nothing that it holds could have ended it")  # fmt: skip
