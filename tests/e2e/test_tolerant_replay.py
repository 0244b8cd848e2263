"""Runs by other arithmetic than ours: honest ones are followed, other texts are refused."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import receipt_forgery as forgery
import tiny_models
from command_line import tritium
from tritium.bench.walk import Variation, Walk
from tritium.engine.model import DEMO, load, resolve_model
from tritium.evidence.replay import replay_checks
from tritium.evidence.tolerant import gaps_of, margin_of
from tritium.formats.gguf import open_gguf
from tritium.gates import read_policy
from tritium.models import build_graph

SHORT = {
    "a scale for each 256": (Variation(scaling="block"), "PASS"),
    "no int8, a near tie": (Variation(scaling="f16"), "INCONCLUSIVE"),
}


@pytest.fixture(scope="module")
def walk() -> Iterator[Walk]:
    file = open_gguf(resolve_model(DEMO))
    yield Walk(build_graph(file), file)
    file.close()


@pytest.fixture(scope="module")
def floats(walk: Walk) -> dict[str, Any]:
    return foreign(walk, Variation(cache="f32"))


def foreign(walk: Walk, variation: Variation, n: int | None = None) -> dict[str, Any]:
    """The positive example, as if an engine with this variation had run it: a profile, tokens and logits of its own."""
    receipt = forgery.positive()
    run, plan = receipt["evidence"]["run"], receipt["evidence"]["plan"]
    run["max_tokens"] = n or run["max_tokens"]
    n_prompt = len(run["prompt_ids"])
    ids = np.array([*run["prompt_ids"], *run["token_ids"][: run["max_tokens"]]], np.int32)
    chosen = np.empty(0)
    while not np.array_equal(
        chosen, ids[n_prompt:]
    ):  # Greedy choices are the fixed point: each depends on earlier ones only.
        ids[n_prompt:] = chosen if chosen.size else ids[n_prompt:]
        chosen = walk.forward(ids, variation)["logits"][n_prompt - 1 : -1].argmax(axis=1)
    run["token_ids"] = chosen.tolist()
    plan["profile"], plan["profile_hash"] = "variation-1", hashlib.sha256(b"variation-1").hexdigest()
    forgery.retell_ids(receipt)
    return receipt


def check_of(receipt: dict[str, Any]) -> tuple[str, str]:
    checks = replay_checks(receipt, None)
    assert [check.id for check in checks] == ["replay_model", "replay_tokenizer", "replay_tolerant"]
    assert {check.status for check in checks[:2]} == {"PASS"}
    return checks[2].status, f"{checks[2].value} {checks[2].hint}"


@pytest.mark.parametrize("name", SHORT)
def test_a_short_honest_run_is_not_refused(walk: Walk, name: str) -> None:
    """One near tie in 20 tokens is too much to stand, and too little to be refused."""
    variation, expected = SHORT[name]
    status, said = check_of(foreign(walk, variation, 20))
    assert status == expected, said


def test_floats_in_the_cache_are_followed(floats: dict[str, Any]) -> None:
    status, said = check_of(floats)
    assert status == "PASS", said
    assert said.startswith("E5d: ")


def test_ids_after_another_prompt_are_refused(floats: dict[str, Any]) -> None:
    receipt = copy.deepcopy(floats)
    run = receipt["evidence"]["run"]
    run["prompt_ids"] = run["prompt_ids"][::-1]
    forgery.retell_ids(receipt)
    assert check_of(receipt)[0] == "FAIL"


@pytest.mark.parametrize("at", [0, 7, -1])
def test_one_id_of_its_own_is_refused(floats: dict[str, Any], at: int) -> None:
    receipt = copy.deepcopy(floats)
    ids = receipt["evidence"]["run"]["token_ids"]
    ids[at] = (ids[at] + 1) % 900 + 10
    forgery.retell_ids(receipt)
    status, said = check_of(receipt)
    assert status == "FAIL"
    assert f"Token {at % len(ids)} is no choice" in said


def test_an_end_that_did_not_come_is_refused(floats: dict[str, Any]) -> None:
    receipt = copy.deepcopy(floats)
    receipt["evidence"]["run"]["finish_reason"] = "stop"
    status, said = check_of(receipt)
    assert status == "FAIL"
    assert "another end" in said


def test_ids_beyond_the_vocabulary_are_refused(floats: dict[str, Any]) -> None:
    receipt = copy.deepcopy(floats)
    receipt["evidence"]["run"]["token_ids"][3] = 70000
    assert [check.id for check in replay_checks(receipt, None) if check.status == "FAIL"] == ["replay_tolerant"]


def test_a_sampled_run_is_in_doubt(floats: dict[str, Any]) -> None:
    receipt = copy.deepcopy(floats)
    receipt["evidence"]["sampling"]["temperature"] = 0.8
    assert check_of(receipt)[0] == "INCONCLUSIVE"


def test_the_verdict_says_that_it_was_followed(floats: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    receipt = copy.deepcopy(floats)
    path.write_text(json.dumps(receipt), encoding="utf-8")
    judged = tritium("verify-receipt", path, "--require", "output=E5", "--json")
    assert judged.returncode == 0, judged.stdout
    claims = json.loads(judged.stdout)["claims"]
    assert claims["output"]["level"] == "E5"
    assert claims["output"]["note"].startswith("E5d: ")
    assert "profile variation-1" in claims["output"]["note"]
    assert claims["determinism"]["level"] != "E5"
    strict = tmp_path / "policy.toml"
    shipped = forgery.ROOT / "src" / "tritium" / "gates" / "policy.toml"
    strict.write_text(
        shipped.read_text(encoding="utf-8").replace("least_agreement = 0.97", "least_agreement = 1.01"),
        encoding="utf-8",
    )
    capped = tritium("verify-receipt", path, "--require", "output=E5", "--policy", strict)
    assert capped.returncode == 8
    assert "INCONCLUSIVE E5 replay_tolerant" in capped.stdout
    receipt["evidence"]["run"]["prompt_ids"].reverse()
    forgery.retell_ids(receipt)
    path.write_text(json.dumps(receipt), encoding="utf-8")
    refused = tritium("verify-receipt", path, "--replay")
    assert refused.returncode == 1
    assert "FAIL E5 replay_tolerant" in refused.stdout


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_the_margin_holds_for_other_shapes(tmp_path: Path, name: str) -> None:
    """Another arithmetic's choices at each place of a text lie within it, tokens that nothing speaks for do not."""
    path = tiny_models.write_tiny(tmp_path / "model.gguf", name)
    ids = np.array([(37 * i * i + 11 * i) % 260 for i in range(1, 25)], np.int32)
    margin = margin_of(read_policy().get("replay", "noise"))
    with load(path) as model, open_gguf(path) as file:
        logits = model.logits(ids.tolist())
        walk = Walk(build_graph(file), file)
        foreign = [walk.forward(ids, v)["logits"] for v in (Variation(scaling="f16"), Variation(cache="f32"))]
    for other in foreign:
        assert gaps_of(logits, other.argmax(axis=1)).max() < margin / 2
    middle = np.argsort(logits, axis=1)[:, logits.shape[1] // 2]
    assert gaps_of(logits, middle).min() > 4 * margin


def test_the_margin_is_the_noise_of_two_logits() -> None:
    """Of logits with noise of that share, the best by the one lies within it by the other, and mostly at half of it."""
    rng, noise = np.random.default_rng(5), 0.04
    exact = rng.standard_normal((400, 1000)).astype(np.float32)
    found = gaps_of(exact, (exact + noise * rng.standard_normal(exact.shape)).argmax(axis=1))
    assert found.max() < margin_of(noise)
    assert found.max() > margin_of(noise) / 8
    assert gaps_of(3 * exact, found.argsort()) == pytest.approx(gaps_of(exact, found.argsort()), rel=1e-5)
