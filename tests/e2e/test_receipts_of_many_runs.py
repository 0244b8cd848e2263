"""Receipts of honest runs of all kinds: none is refused, and every one accounts for its work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import receipt_forgery as forgery
import tritium
from tritium.bench.machine import read_machine
from tritium.engine.model import Model, load
from tritium.engine.sampling import SamplingParams
from tritium.evidence.record import bandwidth, build_receipt
from tritium.evidence.recorder import recorder
from tritium.receipts import jcs

PROMPTS = ("ROMEO:", "a", "To be, or not to be, that is the question. " * 12, "JULIET:\nO")
SETTINGS: tuple[dict[str, Any], ...] = (
    {"max_tokens": 20},
    {"max_tokens": 1},
    {"max_tokens": 2, "temperature": 0.8, "seed": 3},
    {"max_tokens": 40, "temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 2**64 - 1},
    {"max_tokens": 60, "stop": ("\n",)},
    {"max_tokens": 30, "repetition_penalty": 1.3, "ignore_eos": True},
    {"max_tokens": 200, "temperature": 1.5, "seed": 11, "stop_ids": (198,)},
    {"max_tokens": None, "logit_bias": {5: 1.5}},
)
LOADS: tuple[dict[str, Any], ...] = (
    {},
    {"threads": 1},
    {"chunk": 7},
    {"max_context": 200, "prefix_cache": False},
    {"head_screen": "on"},
    {"ffn_sparsity": "on", "threads": 2},
    {"weight_layout": "1.6bit", "ffn_sparsity": "on"},
    {"kv": "int8"},
    {"backend": "reference"},
)


def receipts(model: Model, probe: Any, n: int) -> Iterator[dict[str, Any]]:
    """A receipt for each combination of the first n settings with a prompt."""
    for i in range(n):
        params = SamplingParams(**SETTINGS[i % len(SETTINGS)])
        prompt = PROMPTS[(i // len(SETTINGS) + i) % len(PROMPTS)]
        watch = recorder(model)
        with model.stream(prompt, params, measure=True, observer=watch) as stream:
            for _ in stream:
                pass
        yield build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=probe)


def check(options: dict[str, Any], n: int) -> None:
    with load("demo", **options) as model:
        probe = bandwidth(model)
        for receipt in receipts(model, probe, n):
            verdict = forgery.verdict(jcs.canonical(receipt))
            assert verdict.failed == ()
            reached = {claim.name: claim.level for claim in verdict.claims}
            assert (reached["kernels"], reached["model"]) == ("E3", "E3")


def one(model: Model, prompt: str, **settings: Any) -> dict[str, Any]:
    params, watch = SamplingParams(**settings), recorder(model)
    with model.stream(prompt, params, measure=True, observer=watch) as stream:
        for _ in stream:
            pass
    return build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=bandwidth(model))


def test_a_text_that_ends_after_nine_of_128_tokens() -> None:
    with load("demo") as model:
        end = min(model.tokenizer.stop_ids)
        free = model.generate("Ao", max_tokens=9, ignore_eos=True)
        logits = model.logits([*free.prompt_ids, *free.token_ids])[len(free.prompt_ids) - 1 : -1]
        # A bias that lets the end win over the ninth token, and over none before it.
        *before, ninth = (logits.max(axis=1) - logits[:, end]).tolist()
        receipt = one(model, "Ao", max_tokens=128, logit_bias={end: (ninth + min(before)) / 2})
    assert (receipt["tokens_requested"], receipt["tokens_generated"]) == (128, 9)
    assert receipt["evidence"]["run"]["finish_detail"].startswith("end token")
    assert forgery.verdict(jcs.canonical(receipt)).failed == ()
    assert forgery.levels(receipt)["kernels"] == "E3"
    told = forgery.edited(lambda r: r["evidence"]["run"].update(finish_reason="length"), receipt)
    assert "finish" in forgery.failed(told)


def test_one_token_has_a_latency_and_no_speed() -> None:
    with load("demo") as model:
        receipt = one(model, "ROMEO:", max_tokens=1)
    assert receipt["tokens_per_second"] is None
    assert receipt["prefill_ms"] > 0
    assert forgery.verdict(jcs.canonical(receipt)).failed == ()
    assert {"speed_value", "decode_rate"} <= forgery.failed(
        forgery.edited(lambda r: r.update(tokens_per_second=9.0), receipt)
    )


def test_a_text_that_was_drawn_with_a_seed() -> None:
    with load("demo") as model:
        receipt = one(model, "ROMEO:", max_tokens=32, temperature=0.8, seed=42)
    assert forgery.verdict(jcs.canonical(receipt)).failed == ()
    assert forgery.levels(receipt)["kernels"] == "E3"


@pytest.mark.parametrize("options", LOADS, ids=str)
def test_none_is_refused(options: dict[str, Any]) -> None:
    check(options, 2 if options.get("backend") == "reference" else 8)


def test_a_cache_of_int8_is_not_to_be_told_as_float16() -> None:
    with load("demo", kv="int8") as model:
        (receipt,) = receipts(model, bandwidth(model), 1)
    assert any("attention_int8" in kernel for kernel in receipt["kernels"])
    told = (
        jcs.canonical(receipt).replace(b"attention_int8", b"attention_real").replace(b"rope_apply_int8", b"rope_apply")
    )
    assert any(found.id == "cache_bytes" for found in forgery.verdict(told).failed)


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_other_instruction_sets(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    from tritium.backends.cpu import isas

    if isa not in isas():
        pytest.skip(f"{isa} does not run here")
    monkeypatch.setenv("TRITIUM_ISA", isa)
    check({}, 3)


@pytest.mark.nightly
@pytest.mark.parametrize("options", LOADS[:5], ids=str)
def test_none_of_two_hundred_is_refused(options: dict[str, Any]) -> None:
    check(options, 40)


def test_a_prefix_that_was_reused_is_not_claimed_as_work() -> None:
    with load("demo") as model:
        (first, second) = (r for r in receipts_of(model, PROMPTS[2], 2))
        assert first["evidence"]["run"]["n_cached"] == 0
        assert second["evidence"]["run"]["n_cached"] > 0
        body = [r["evidence"]["ledger"]["families"][0]["macs"] for r in (first, second)]
        assert body[1] < body[0]
        assert forgery.verdict(jcs.canonical(second)).failed == ()


def receipts_of(model: Model, prompt: str, n: int) -> Iterator[dict[str, Any]]:
    params = SamplingParams(max_tokens=4)
    for _ in range(n):
        watch = recorder(model)
        with model.stream(prompt, params, measure=True, observer=watch) as stream:
            for _piece in stream:
                pass
        yield build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=None)


def test_two_generations_in_the_same_steps_have_no_receipt() -> None:
    with load("demo") as model:
        watch = recorder(model)
        params = SamplingParams(max_tokens=4)
        engine = model.engine
        watched = engine.submit([model.tokenize("ROMEO:")], params, observers=[watch])
        other = engine.submit([model.tokenize("JULIET:")], params)
        results = engine.run([*watched, *other])
        with pytest.raises(tritium.NumericsError, match="no other generation beside it"):
            build_receipt(model, results[0], watch, params, machine=asdict(read_machine()), probe=None)


def test_a_cancelled_run_has_no_receipt(tmp_path: Path) -> None:
    with load("demo") as model:
        watch = recorder(model)
        params = SamplingParams(max_tokens=50)
        stream = model.stream("ROMEO:", params, observer=watch)
        next(stream)
        stream.close()
        with pytest.raises(tritium.NumericsError, match="no receipt"):
            build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=None)
