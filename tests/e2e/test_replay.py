"""Receipts are computed again: what was told is what comes out, and what was changed is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import receipt_forgery as forgery
from command_line import tritium
from tritium.bench.machine import read_machine
from tritium.engine.model import DEMO, Model, load, resolve_model
from tritium.engine.sampling import SamplingParams
from tritium.evidence.record import build_receipt
from tritium.evidence.recorder import recorder
from tritium.evidence.replay import replay_checks

RUNS: dict[str, dict[str, Any]] = {
    "greedy": {"max_tokens": 40},
    "one token": {"max_tokens": 1},
    "sampled": {"max_tokens": 40, "temperature": 0.9, "seed": 7},
    "sampled from a few": {"max_tokens": 40, "temperature": 1.3, "top_k": 30, "top_p": 0.9, "seed": 2**64 - 1},
    "typical": {"max_tokens": 20, "temperature": 1.0, "typical_p": 0.8, "min_p": 0.01},
    "penalized and biased": {"max_tokens": 40, "repetition_penalty": 1.4, "presence_penalty": 0.5, "logit_bias": {7: 2.5}},
    "stopped by a text": {"max_tokens": 80, "stop": ("\n",)},
    "stopped by an id": {"max_tokens": 80, "temperature": 1.2, "stop_ids": (5, 6, 7, 8, 9, 10, 11, 12)},
}  # fmt: skip


DEMO_FILE = resolve_model(DEMO)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with load("demo") as opened:
        yield opened


def record(model: Model, prompt: str, **settings: Any) -> dict[str, Any]:
    params = SamplingParams(**settings)
    watch = recorder(model, nonce="a question")
    with model.stream(prompt, params, measure=True, observer=watch) as stream:
        for _ in stream:
            pass
    return build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=None)


def outcome(receipt: dict[str, Any], backend: str = "native") -> dict[str, str]:
    return {check.id: check.status for check in replay_checks(receipt, None, backend)}


EVERYTHING = dict.fromkeys(
    ("replay_model", "replay_graph", "replay_tokenizer", "replay_ids", "replay_trace", "replay_logits"), "PASS"
)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_replays(model: Model, name: str) -> None:
    assert outcome(record(model, "JULIET:\nO", **RUNS[name])) == EVERYTHING


def test_the_reference_replays_what_the_native_core_ran(model: Model) -> None:
    receipt = record(model, "ROMEO:", max_tokens=10, temperature=0.8, seed=3)
    assert outcome(receipt, "reference") == EVERYTHING
    value = next(str(c.value) for c in replay_checks(receipt, None, "reference") if c.id == "replay_ids")
    assert value.startswith("E5c: 10/10 ids and trace root equal")


def test_what_was_in_the_cache_is_forwarded_again(model: Model) -> None:
    prompt = "To be, or not to be, that is the question. " * 8
    record(model, prompt, max_tokens=3)
    receipt = record(model, prompt, max_tokens=3)
    assert receipt["evidence"]["trace"]["first"] == receipt["evidence"]["run"]["n_cached"] > 0
    assert outcome(receipt) == EVERYTHING


def test_the_root_does_not_tell_how_a_prompt_was_cut() -> None:
    roots = set()
    for chunk in (None, 5):
        with load("demo", chunk=chunk) as model:
            watch = recorder(model)
            watch.run_id = bytes(16)
            params = SamplingParams(max_tokens=4)
            with model.stream("The quality of mercy", params, measure=True, observer=watch) as stream:
                for _ in stream:
                    pass
            made = build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=None)
            roots.add(made["evidence"]["trace"]["root"])
    assert len(roots) == 1


def edited_output(receipt: dict[str, Any]) -> None:
    run = receipt["evidence"]["run"]
    run["token_ids"][5] = (run["token_ids"][5] + 1) % 900 + 10
    forgery.retell_ids(receipt)


def other_prompt(receipt: dict[str, Any]) -> None:
    receipt["evidence"]["run"]["prompt_ids"][0] += 1
    forgery.retell_ids(receipt)


def place(*path: str, value: Any) -> forgery.Edit:
    def edit(receipt: dict[str, Any]) -> None:
        at = receipt["evidence"]
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value

    return edit


LIES: dict[str, tuple[forgery.Edit, str]] = {
    "another trace": (place("trace", "root", value="ab" * 32), "replay_trace"),
    "another run's trace": (place("trace", "run", value="ab" * 16), "replay_trace"),
    "another question's trace": (place("trace", "nonce", value="yesterday"), "replay_trace"),
    "a token edited after decoding": (edited_output, "replay_ids"),
    "greedy, told as sampled": (place("sampling", "temperature", value=1.5), "replay_ids"),
    "another tokenizer": (place("model", "tokenizer_sha256", value="ab" * 32), "replay_tokenizer"),
    "other end tokens": (place("run", "end_ids", value=[4]), "replay_tokenizer"),
    "another graph": (place("plan", "graph_hash", value="ab" * 32), "replay_graph"),
    "other last logits": (place("run", "logits_sha256", value="ab" * 32), "replay_logits"),
    "an end that did not come": (place("run", "finish_reason", value="stop"), "replay_ids"),
    "a token beyond the vocabulary": (lambda r: r["evidence"]["run"]["token_ids"].__setitem__(3, 70000), "replay_ids"),
    "parameters that no run can have": (place("sampling", "typical_p", value=0.5), "replay_ids"),
    "a bias that is no number": (place("sampling", "logit_bias", value=["5=1e-e"]), "replay_ids"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found_by_running_it_again(name: str) -> None:
    edit, expected = LIES[name]
    found = outcome(forgery.edited(edit))
    assert [check for check, status in found.items() if status == "FAIL"][:1] == [expected]


def test_another_prompts_trace(model: Model) -> None:
    """Everything of one run, the trace of another."""
    one, other = (record(model, prompt, max_tokens=8) for prompt in ("ROMEO:", "JULIET"))
    one["evidence"]["trace"] = other["evidence"]["trace"]
    assert outcome(one)["replay_trace"] == "FAIL"


def test_a_receipt_without_a_trace_is_in_doubt() -> None:
    found = outcome(forgery.edited(place("trace", value=None)))
    assert found["replay_ids"] == "PASS"
    assert found["replay_trace"] == "INCONCLUSIVE"
    assert outcome(forgery.bare()) == {"replay_model": "INCONCLUSIVE"}


def test_a_run_and_its_replay_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    assert tritium("run", "-m", "demo", "ROMEO:", "-n", "24", "--receipt", path).returncode == 0
    judged = tritium("verify-receipt", path, "--require", "kernels=E3,output=E5", "--model", "demo")
    assert judged.returncode == 0, judged.stdout
    assert "output       E5     E5b: 24/24 ids and trace root equal (replayed, native," in judged.stdout
    again = tritium("verify-receipt", path, "--replay", "--replay-backend", "reference", "--json")
    assert json.loads(again.stdout)["claims"]["output"]["note"].startswith("E5c: 24/24")
    receipt = json.loads(path.read_text(encoding="utf-8"))
    edited_output(receipt)
    path.write_text(json.dumps(receipt), encoding="utf-8")
    assert tritium("verify-receipt", path).returncode == 0
    refused = tritium("verify-receipt", path, "--replay")
    assert refused.returncode == 1
    assert "FAIL E5 replay_ids" in refused.stdout


def test_a_nonce_goes_into_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    assert tritium("run", "a", "-n", "3", "--receipt", path, "--nonce", "question-1").returncode == 0
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert receipt["evidence"]["trace"]["nonce"] == "question-1"
    assert outcome(receipt) == EVERYTHING
    receipt["evidence"]["trace"]["nonce"] = "question-2"
    assert outcome(receipt)["replay_trace"] == "FAIL"
    assert tritium("run", "a", "--nonce", "question-1").returncode == 2
    assert tritium("run", "a", "--receipt", path, "--nonce", "with space").returncode == 2


def test_a_path_in_a_receipt_is_not_opened(tmp_path: Path) -> None:
    """The file that the receipt names would do; the verifier gave another one."""
    receipt = forgery.positive()
    receipt["model"]["path"] = "demo"
    (tmp_path / "r.json").write_text(json.dumps(receipt), encoding="utf-8")
    other = tmp_path / "other.gguf"
    assert tritium("make-model", "--shape", "tiny", "--vocab", DEMO_FILE, "--no-measure", "-o", other).returncode == 0
    judged = tritium("verify-receipt", tmp_path / "r.json", "--require", "output=E5", "--model", other)
    assert judged.returncode == 8
    assert "INCONCLUSIVE E5 replay_model" in judged.stdout
    assert tritium("verify-receipt", tmp_path / "r.json", "--model", other).returncode == 2
    assert tritium("verify-receipt", tmp_path / "r.json", "--replay", "--model", tmp_path / "no").returncode == 3
