"""E1: as many tokens as ids, each of the vocabulary, ended where and why it is said."""

from __future__ import annotations

from collections.abc import Iterator

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
    run = facts.run
    yield check(
        "token_count", "E1",
        len(run["token_ids"]) == generated == len(run["token_ns"]) == facts.n_outputs
        and requested == run["max_tokens"] >= len(run["token_ids"])
        and len(run["prompt_ids"]) == run["n_prompt"],
        f"{generated} tokens, {len(run['token_ids'])} ids, {len(run['token_ns'])} times, {facts.n_outputs} rows of logits, "
        f"{len(run['prompt_ids'])} prompt ids",
        f"equal counts, at most {requested}; {run['n_prompt']} prompt ids",
        "Each token has an id, a time and a row of logits",
    )  # fmt: skip
    yield _ids(facts)
    yield _finish(facts)


def _ids(facts: Facts) -> Check:
    run, vocabulary = facts.run, facts.config["vocab_size"]
    for ids, name in ((run["prompt_ids"], "prompt_sha256"), (run["token_ids"], "output_sha256")):
        if ids_hash(ids) != run[name]:
            return check(
                "token_ids", "E1", False, ids_hash(ids)[:16], run[name][:16], f"{name}: the ids have another hash"
            )
        if max(ids) >= vocabulary:
            return check("token_ids", "E1", False, max(ids), f"below {vocabulary}", "The vocabulary has no such id")
    if any(token >= vocabulary for token in [*run["end_ids"], *facts.evidence["sampling"]["stop_ids"]]):  # type: ignore[index]
        return check(
            "token_ids", "E1", False, max(run["end_ids"]), f"below {vocabulary}", "The vocabulary has no such end id"
        )
    return check("token_ids", "E1", True)


def _finish(facts: Facts) -> Check:
    run = facts.run
    ids, ends = run["token_ids"], set(run["end_ids"])
    sampling = facts.evidence["sampling"] if facts.evidence else {}
    stops = set(sampling["stop_ids"]) | (set() if run["ignore_eos"] else ends)
    early = [i for i, token in enumerate(ids[:-1]) if token in stops]
    if early:
        return check("finish", "E1", False, f"end token {ids[early[0]]} at {early[0]}", "an end token once, and last",
                     "The model had ended; what follows was not asked for")  # fmt: skip
    full = len(ids) == run["max_tokens"] or run["n_prompt"] + len(ids) == facts.plan["max_context"]
    if run["finish_reason"] == "length":
        return check("finish", "E1", full and ids[-1] not in stops, f"{len(ids)} tokens, length", f"{run['max_tokens']} tokens",
                     "It stopped early, or at an end token, and does not say why")  # fmt: skip
    reason = ids[-1] in stops or ("stop string" in run["finish_detail"] and bool(sampling["stop"]))
    return check("finish", "E1", reason, run["finish_detail"], "an end token, a stop id or a stop string",
                 "Nothing that it holds could have ended it")  # fmt: skip
