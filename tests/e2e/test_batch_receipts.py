"""Receipts of batches: written by live runs of all kinds, accepted, and computed again sequence by sequence."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import receipt_forgery as forgery
from command_line import tritium
from tritium.bench.machine import read_machine
from tritium.engine.generation import GenerationResult
from tritium.engine.model import Model, load
from tritium.engine.sampling import SamplingParams
from tritium.errors import NumericsError, UnsupportedError
from tritium.evidence.challenge import ask_openings
from tritium.evidence.record import bandwidth, build_batch_receipt
from tritium.evidence.recorder import Recorder, recorder
from tritium.evidence.replay import replay_checks
from tritium.receipts import jcs

PROMPTS = ("ROMEO:", "a", "To be, or not to be, that is the question. " * 6, "JULIET:\nO", "ROMEO:")
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"max_tokens": 24},
    "one token each": {"max_tokens": 1},
    "drawn, with a seed": {"max_tokens": 24, "temperature": 0.8, "seed": 7},
    "ended by ids, at different times": {
        "max_tokens": 60,
        "temperature": 1.2,
        "seed": 3,
        "stop_ids": tuple(range(5, 30)),
    },
    "ended by a text": {"max_tokens": 60, "stop": ("e",)},
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with load("demo", chunk=24) as opened:
        yield opened


def run(
    model: Model, prompts: tuple[str, ...], **settings: Any
) -> tuple[list[GenerationResult], list[Recorder], SamplingParams]:
    params = SamplingParams(**settings)
    watches = [recorder(model, nonce="a question") for _ in prompts]
    engine = model.engine
    generations = engine.submit([model.tokenize(p) for p in prompts], params, measure=True, observers=watches)
    return engine.run(generations), watches, params


def record(model: Model, prompts: tuple[str, ...] = PROMPTS, **settings: Any) -> dict[str, Any]:
    results, watches, params = run(model, prompts, **settings)
    return build_batch_receipt(
        model, results, watches, params, machine=asdict(read_machine()), probe=bandwidth(model), repeats=[results]
    )


def statuses(receipt: dict[str, Any], backend: str = "native") -> dict[str, str]:
    return {check.id: check.status for check in replay_checks(receipt, None, backend)}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_stands_and_replays(model: Model, name: str) -> None:
    receipt = record(model, **SETTINGS[name])
    verdict = forgery.verdict(jcs.canonical(receipt))
    assert not verdict.failed
    reached = {claim.name: claim.level for claim in verdict.claims}
    assert (reached["kernels"], reached["model"]) == ("E3", "E3")
    assert receipt["evidence"]["batch"]["n_sequences"] == len(PROMPTS)
    assert set(statuses(receipt).values()) == {"PASS"}


def test_each_sequence_comes_to_what_it_comes_to_alone(model: Model) -> None:
    receipt = record(model, max_tokens=12)
    told = [receipt["evidence"]["run"], *receipt["evidence"]["batch"]["others"]]
    for prompt, each in zip(PROMPTS, told, strict=True):
        alone = model.generate(prompt, max_tokens=12, measure=True)
        assert (tuple(each["token_ids"]), each["logits_sha256"]) == (alone.token_ids, alone.logits_sha256)


def test_equal_prompts_share_what_was_forwarded(model: Model) -> None:
    receipt = record(model, ("ROMEO:", "ROMEO:", "ROMEO:"), max_tokens=8, temperature=1.0)
    cached = [each["n_cached"] for each in receipt["evidence"]["batch"]["others"]]
    assert min(cached) == receipt["evidence"]["run"]["n_prompt"] - 1
    assert not forgery.verdict(jcs.canonical(receipt)).failed
    assert set(statuses(receipt).values()) == {"PASS"}


def test_the_reference_replays_a_batch(model: Model) -> None:
    receipt = record(model, PROMPTS[:2], max_tokens=6, temperature=0.8, seed=5)
    assert set(statuses(receipt, "reference").values()) == {"PASS"}
    value = next(str(c.value) for c in replay_checks(receipt, None) if c.id == "replay_ids")
    assert value.startswith("E5b: 12/12 ids of 2 sequences and trace root equal")


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        (("batch", "others", 1, "token_ids", 3), 33, "replay_ids"),
        (("batch", "others", 2, "prompt_ids", 0), 33, "replay_ids"),
        (("batch", "others", 0, "logits_sha256"), "ab" * 32, "replay_logits"),
        (("batch", "others", 0, "finish_reason"), "stop", "replay_ids"),
        (("trace", "root"), "ab" * 32, "replay_trace"),
    ],
)
def test_a_lie_about_one_sequence_is_found(
    model: Model, where: tuple[str | int, ...], value: object, expected: str
) -> None:
    receipt = copy.deepcopy(record(model, max_tokens=10))
    place: Any = receipt["evidence"]
    for name in where[:-1]:
        place = place[name]
    assert place[where[-1]] != value
    place[where[-1]] = value
    assert [name for name, status in statuses(receipt).items() if status == "FAIL"][:1] == [expected]


def test_sequences_in_another_order_are_another_run(model: Model) -> None:
    """Greedy tokens are the same, the root is not."""
    receipt = copy.deepcopy(record(model, max_tokens=10))
    others = receipt["evidence"]["batch"]["others"]
    others[0], others[1] = others[1], others[0]
    found = statuses(receipt)
    assert (found["replay_ids"], found["replay_trace"]) == ("PASS", "FAIL")


def test_a_stranger_in_the_batch_has_no_receipt(model: Model) -> None:
    params = SamplingParams(max_tokens=4)
    watches = [recorder(model) for _ in range(2)]
    engine = model.engine
    mine = engine.submit([model.tokenize(p) for p in PROMPTS[:2]], params, observers=watches)
    other = engine.submit([model.tokenize("JULIET:")], params)
    results = engine.run([*mine, *other])
    with pytest.raises(NumericsError, match="no other generation beside it"):
        build_batch_receipt(model, results[:2], watches, params, machine=asdict(read_machine()), probe=None)


def test_sequences_that_waited_for_each_other_are_no_batch() -> None:
    with load("demo", max_context=64, kv_budget=131_072, prefix_cache=False) as small:
        assert small.engine.executor.kv_blocks == 1
        results, watches, params = run(small, ("ROMEO:", "JULIET:"), max_tokens=40)
        with pytest.raises(NumericsError, match="several sequences in a step"):
            build_batch_receipt(small, results, watches, params, machine=asdict(read_machine()), probe=None)


def test_a_batch_is_replayed_and_not_opened(model: Model) -> None:
    with pytest.raises(UnsupportedError, match="one sequence"):
        ask_openings(record(model, max_tokens=4), 0, 2, 1)


def test_the_benchmark_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    done = tritium("benchmark", "-m", "demo", "--prompt-tokens", "5", "-b", "3", "-n", "8", "--output", path)
    assert done.returncode == 0, done.stderr
    assert "3 sequences together" in done.stdout
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert (receipt["tokens_generated"], receipt["deterministic"]) == (24, True)
    judged = tritium("verify-receipt", path, "--require", "kernels=E3,output=E5")
    assert judged.returncode == 0, judged.stdout
    assert "E5b: 24/24 ids of 3 sequences and trace root equal" in judged.stdout
    assert "of 3 sequences together" in judged.stdout


def test_texts_can_be_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    done = tritium("benchmark", "-m", "demo", "-p", "ROMEO:", "-p", "What is in a name", "-n", "6", "--output", path,
                   "--temperature", "0.8", "--repeats", "1", "--show-output")  # fmt: skip
    assert done.returncode == 0, done.stderr
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert receipt["evidence"]["run"]["n_prompt"] != receipt["evidence"]["batch"]["others"][0]["n_prompt"]
    assert tritium("verify-receipt", path, "--replay").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("-b", "4"), "--sequences needs --prompt-tokens"),
        (("-p", "a", "-p", "b", "--knockout"), "runs one prompt"),
        (("--prompt-tokens", "4", "-b", "0"), "0 is not in the range"),
    ],
)
def test_what_is_no_batch_is_refused(arguments: tuple[str, ...], why: str) -> None:
    refused = tritium("benchmark", *arguments)
    assert refused.returncode == 2
    assert why in refused.stderr


def test_more_sequences_than_a_step_has_outputs_are_refused(tmp_path: Path) -> None:
    refused = tritium("benchmark", "--prompt-tokens", "4", "-b", "33", "-n", "2", "-o", tmp_path / "r.json")
    assert (refused.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "up to 32" in refused.stderr
