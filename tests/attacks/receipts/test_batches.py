"""Sequences decoded together: faster than one alone may be where that is declared and counted, refused where it is not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

import receipt_forgery as forgery
import receipt_mutants
from receipt_forgery import Edit, Receipt
from tritium.gates import Facts
from tritium.gates._facts import ids_hash, outputs_hash

BATCH = forgery.POSITIVE.with_name("cpu_batch_example.json")


def batch() -> Receipt:
    """Four sequences of twenty tokens, as the benchmark wrote them."""
    value: Receipt = json.loads(BATCH.read_text(encoding="utf-8"))
    return value


def sequences(receipt: Receipt) -> list[dict[str, Any]]:
    evidence = receipt["evidence"]
    return [evidence["run"], *evidence.get("batch", {"others": []})["others"]]


def no_caches(receipt: Receipt) -> None:
    """Only a first-level cache, so that memory has to have been read."""
    machine = receipt["evidence"]["machine"]
    machine["caches"] = [c for c in machine["caches"] if c["level"] == 1]


def linear_bytes(receipt: Receipt) -> int:
    """What a pass of several tokens reads of the layers' weights."""
    steps = receipt["evidence"]["ledger"]["steps"]
    return sum(int(row["bytes"] // row["calls"]) for row in steps if row["kernel"].startswith("i2s_"))


def above_the_roof_of_one(receipt: Receipt) -> None:
    """Memory that gives the fastest pass just its bytes: too slow for its tokens one by one."""
    no_caches(receipt)
    facts = Facts(receipt, forgery.NOW)
    passes = receipt["evidence"]["run"]["passes"]
    speed = max(facts.pass_bytes(i) / p["ns"] for i, p in enumerate(passes))
    receipt["evidence"]["bandwidth"].update(samples_gb_per_s=[speed] * 3, median_gb_per_s=speed)


def undeclared(receipt: Receipt) -> None:
    del receipt["evidence"]["batch"]


def told_as_the_first_alone(receipt: Receipt) -> None:
    """One sequence's tokens, no parts, the work of four."""
    del receipt["evidence"]["batch"]
    for p in receipt["evidence"]["run"]["passes"]:
        del p["parts"]
    run = receipt["evidence"]["run"]
    receipt.update(tokens_generated=len(run["token_ids"]), tokens_requested=run["max_tokens"])
    run["peak_rss_bytes"] *= 4


def told_as_one_stream(receipt: Receipt) -> None:
    """All tokens in the order of their times, after one prompt: a stream four times as fast."""
    evidence = receipt["evidence"]
    run = evidence["run"]
    rows = sorted((t, i) for s in sequences(receipt) for t, i in zip(s["token_ns"], s["token_ids"], strict=True))
    del evidence["batch"]
    run["token_ns"], run["token_ids"] = [t for t, _ in rows], [i for _, i in rows]
    run["max_tokens"] = len(rows)
    position = 0
    for p in run["passes"]:
        del p["parts"]
        p["position"], position = position, position + p["n_tokens"]
    receipt.update(tokens_generated=len(rows), tokens_requested=len(rows))
    for repeat in evidence["repeats"]:
        repeat.pop("n_decoded")
    forgery.retell_ids(receipt)
    forgery.retell_times(receipt)
    evidence["stages"][3].update(ns=0, percent=0)


def alone_told_as_batch(receipt: Receipt, *, work: int, gemm: bool = False) -> None:
    """A run of one prompt, told as four that ran with it; ``work`` is by how much its counters are multiplied."""
    evidence = receipt["evidence"]
    run, ledger = evidence["run"], evidence["ledger"]
    names = ("n_prompt", "n_cached", "max_tokens", "prompt_ids", "prompt_sha256", "token_ids", "output_sha256",
             "logits_sha256", "finish_reason", "finish_detail", "token_ns")  # fmt: skip
    others = []
    for number in (1, 2, 3):
        others.append(copy.deepcopy({name: run[name] for name in names}))
        others[-1]["token_ns"] = [t + number for t in run["token_ns"]]
    evidence.update(version="1.2", batch={"n_sequences": 4, "others": others})
    for p in run["passes"]:
        p["parts"] = [[number, p["position"], p["n_tokens"]] for number in range(4)]
        p["n_tokens"] *= 4
        p["n_outputs"] *= 4
    evidence["trace"]["n_leaves"] *= 4
    ledger["n_tokens"] *= 4
    for row in ledger["steps"]:
        row["macs"] *= work
    for name in ("full", "screened", "rescored"):
        ledger["head_rows"][name] *= work
    if gemm:
        forgery.rename_kernels(receipt, lambda k: k.replace("_gemv_", "_gemm_"))
    tell_speed(receipt)


def tell_speed(receipt: Receipt) -> None:
    """Counts, speeds and hashes of a batch that follow from its sequences."""
    each, evidence = sequences(receipt), receipt["evidence"]
    first, last = max(s["token_ns"][0] for s in each), max(s["token_ns"][-1] for s in each)
    n = sum(t > first for s in each for t in s["token_ns"])
    for s in each:
        s.update(prompt_sha256=ids_hash(s["prompt_ids"]), output_sha256=ids_hash(s["token_ids"]))
    receipt.update(
        tokens_generated=sum(len(s["token_ids"]) for s in each), tokens_requested=sum(s["max_tokens"] for s in each),
        tokens_per_second=n / (last - first) * 1e9, prefill_ms=first / 1e6, deterministic=False,
    )  # fmt: skip
    outputs, logits = (outputs_hash([s[name] for s in each]) for name in ("output_sha256", "logits_sha256"))
    row = {"output_sha256": outputs, "logits_sha256": logits, "n_decoded": n}
    evidence["repeats"] = [{**row, "n_tokens": receipt["tokens_generated"], "decode_ns": last - first}]
    evidence["run"]["wall_ns"] = last + 100
    ends, stages = [p["start_ns"] + p["ns"] for p in evidence["run"]["passes"]], evidence["stages"]
    forgery.add_up(receipt)
    rows = [list(s["token_ns"]) for s in each]
    gaps = 0
    for p, end in zip(evidence["run"]["passes"], ends, strict=True):
        due = [number for number, at, count in p["parts"] if at + count >= each[number]["n_prompt"]]
        gaps += max(rows[number].pop(0) if rows[number] else end for number in due) - end if due else 0
    stages[3].update(ns=gaps, percent=100 * gaps / last)
    for stage in stages[:3]:
        stage["percent"] = 100 * stage["ns"] / last


def one_after_the_other(receipt: Receipt) -> None:
    for p in receipt["evidence"]["run"]["passes"]:
        p["parts"] = [[0, p["position"], p["n_tokens"]]]


def twice_as_many(receipt: Receipt) -> None:
    """Eight on record, each listed twice; four were forwarded."""
    said = receipt["evidence"]["batch"]
    others = said["others"]
    others += copy.deepcopy([*others, others[0]])
    said["n_sequences"] = 8
    for i, other in enumerate(others[3:]):
        other["token_ns"] = [t + 10 + i for t in other["token_ns"]]
    tell_speed(receipt)


def a_part_more(receipt: Receipt) -> None:
    receipt["evidence"]["run"]["passes"][3]["parts"].append([0, 11, 1])


def of_no_sequence(receipt: Receipt) -> None:
    receipt["evidence"]["run"]["passes"][3]["parts"][0][0] = 9


def at_one_moment(receipt: Receipt) -> None:
    first, second = sequences(receipt)[:2]
    second["token_ns"][4] = first["token_ns"][4]


def short_of_one_token(receipt: Receipt) -> None:
    other = receipt["evidence"]["batch"]["others"][1]
    other["token_ids"].pop()
    other["token_ns"].pop()
    tell_speed(receipt)


FORGERIES: dict[str, tuple[Edit, str]] = {
    "a batch that is not declared": (undeclared, "batch"),
    "a batch told as its first sequence": (told_as_the_first_alone, "positions"),
    "a batch told as one fast stream": (told_as_one_stream, "positions"),
    "a declared size of eight": (lambda r: r["evidence"]["batch"].update(n_sequences=8), "batch"),
    "eight listed, four forwarded": (twice_as_many, "positions"),
    "one after the other": (one_after_the_other, "batch"),
    "a sequence twice in a pass": (a_part_more, "batch"),
    "a sequence that is not there": (of_no_sequence, "batch"),
    "evidence of a version without batches": (lambda r: r["evidence"].update(version="1.1"), "batch"),
    "two tokens at one moment": (at_one_moment, "pass_times"),
    "a shorter sequence than was forwarded": (short_of_one_token, "positions"),
    "the speed of eight": (lambda r: r.update(tokens_per_second=2 * r["tokens_per_second"]), "decode_rate"),
    "the trace of one sequence": (lambda r: r["evidence"]["trace"].update(n_leaves=28), "trace"),
    "another output of a sequence": (
        lambda r: r["evidence"]["batch"]["others"][2]["token_ids"].__setitem__(3, 17), "token_ids",
    ),
    "another count of decoded tokens": (lambda r: r["evidence"]["repeats"][0].update(n_decoded=80), "repeats"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_batch_is_refused_for_its_lie(name: str) -> None:
    edit, expected = FORGERIES[name]
    assert expected in forgery.failed(forgery.edited(edit, batch()))


@pytest.mark.parametrize(
    ("how", "expected"),
    [({"work": 1}, "body_macs"), ({"work": 4}, "calls"), ({"work": 4, "gemm": True}, "weight_bytes")],
)
def test_one_stream_told_as_a_batch_is_refused(how: dict[str, Any], expected: str) -> None:
    """The more carefully it is told, the later it is found."""
    found = forgery.failed(forgery.edited(lambda r: alone_told_as_batch(r, **how)))
    assert expected in found
    assert not found & {"batch", "positions", "decode_rate", "token_count", "trace", "pass_times", "stages", "repeats"}


HONEST: dict[str, Edit] = {
    "as it was written": lambda r: None,
    "above the roof of one stream": above_the_roof_of_one,
    "told again": tell_speed,
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_batch_stands(name: str) -> None:
    verdict = forgery.verdict(forgery.edited(HONEST[name], batch()))
    assert not verdict.failed
    reached = {claim.name: claim.level for claim in verdict.claims}
    assert (reached["speed"], reached["kernels"], reached["model"], reached["output"]) == ("E3", "E3", "E3", "E1")


def test_the_roof_that_a_batch_passes_holds_one_stream_back() -> None:
    """The same tokens in the same time, each forwarded alone, would have read the weights of the layers for each."""
    receipt = forgery.edited(above_the_roof_of_one, batch())
    roof = receipt["evidence"]["bandwidth"]["median_gb_per_s"] * 1e9
    assert receipt["tokens_per_second"] * linear_bytes(receipt) > 1.25 * roof


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.nightly)])
def test_of_changes_of_a_batch_95_in_100_are_refused_or_capped(every: int) -> None:
    result = receipt_mutants.kill(batch(), every=every)
    assert result.made.total() > 2000 // every
    assert result.rate >= 0.95
    assert not [m for m in result.survivors if receipt_mutants.reason(m.field).startswith("accepted:")]
