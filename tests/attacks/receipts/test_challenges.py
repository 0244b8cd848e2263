"""Answers to challenges: honest ones stand, each lie is found where it was told."""

from __future__ import annotations

import copy
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import receipt_forgery as forgery
from command_line import tritium
from tritium.bench.machine import read_machine
from tritium.cli._socket import ask, serve
from tritium.engine.model import DEMO, load, resolve_model
from tritium.engine.sampling import SamplingParams
from tritium.errors import FormatError, GateError, UnsupportedError
from tritium.evidence import challenge as challenges
from tritium.evidence import freivalds
from tritium.evidence.record import build_receipt
from tritium.evidence.recorder import recorder
from tritium.formats.gguf import open_gguf
from tritium.receipts import jcs

DEMO_FILE = resolve_model(DEMO)
Answer = dict[str, Any]


def asked(receipt: dict[str, Any], positions: list[int], layers: list[int]) -> dict[str, Any]:
    """A challenge whose choice is not left to chance, so that a test is the same each time."""
    made = challenges.ask_openings(receipt, time.time_ns(), 1, 1)
    return {**made, "positions": positions, "layers": [layers] * len(positions)}


@pytest.fixture(scope="module")
def opened() -> tuple[dict[str, Any], dict[str, Any], Answer]:
    receipt = forgery.positive()
    question = asked(receipt, [1, 7, 30], [1, 3])
    answer = challenges.open_positions(question, receipt, DEMO_FILE)
    return receipt, question, dict(challenges.read_answer(answer, "answer"))


def judged(receipt: Any, question: Any, answer: Any) -> dict[str, tuple[str, Any]]:
    return {c.id: (c.status, c.value) for c in challenges.opening_checks(question, answer, receipt, None)}


def test_an_honest_answer_stands(opened: Any) -> None:
    found = judged(*opened)
    assert {name: status for name, (status, _) in found.items()} == dict.fromkeys(
        ("challenge", "opening_root", "openings"), "PASS"
    )
    assert found["openings"][1] == f"E5a: 3 of {opened[0]['evidence']['trace']['n_leaves']} positions opened"


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.9, "seed": 3},
        {"repetition_penalty": 1.5, "presence_penalty": 0.4, "logit_bias": {9: 1.5}},
        {"temperature": 1.2, "top_k": 40, "top_p": 0.9},
    ],
    ids=str,
)
def test_sampled_runs_open_too(settings: dict[str, Any]) -> None:
    params = SamplingParams(max_tokens=12, **settings)
    with load("demo") as model:
        watch = recorder(model)
        with model.stream("ROMEO:", params, measure=True, observer=watch) as stream:
            for _ in stream:
                pass
        receipt = build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=None)
    n = receipt["evidence"]["trace"]["n_leaves"]
    question = asked(receipt, list(range(n)), [0, 1, 2, 3])
    answer = challenges.read_answer(challenges.open_positions(question, receipt, DEMO_FILE), "answer")
    assert judged(receipt, question, answer)["openings"][0] == "PASS"


def add(name: str, at: tuple[int, ...], amount: int) -> Callable[[Answer], None]:
    def edit(answer: Answer) -> None:
        answer[name] = answer[name].copy()
        answer[name][at] += amount

    return edit


LIES: dict[str, tuple[Callable[[Answer], object], str, str]] = {
    "an accumulator off by one": (add("7.accumulators", (0,), 1), "openings", "accumulators are not the product"),
    "an accumulator shifted by p": (
        add("7.accumulators", (3,), freivalds.PRIME), "openings", "accumulators are not the product",
    ),
    "a code off by one": (add("7.rows", (5,), 1), "openings", "rows are not those of the trace"),
    "a key's accumulator": (add("7.3.keys", (2, 1), 1), "openings", "accumulators are not the product"),
    "a value's accumulator": (add("7.3.values", (0, 0), -1), "openings", "accumulators are not the product"),
    "a key's row": (add("7.1.rows", (3, 0), 1), "openings", "a key's row is not that of the trace"),
    "another past": (add("7.1.digests", (3, 0, 0), 1), "openings", "rows are not those of the trace"),
    "a column": (add("columns", (4, 0), 1), "opening_root", ""),
    "a hidden row": (add("hidden", (20, 31), 1), "opening_root", ""),
    "a part left out": (lambda a: a.pop("30.accumulators"), "openings", "30.accumulators"),
    "a part of another shape": (lambda a: a.update({"30.rows": a["30.rows"][:-1]}), "openings", "30.rows"),
    "a part of another type": (lambda a: a.update({"30.rows": a["30.rows"].view(np.int8)}), "openings", "30.rows"),
    "no columns": (lambda a: a.pop("columns"), "opening_root", ""),
    "attention of another position": (
        lambda a: a.update({"7.1.keys": a["30.1.keys"][1:8]}), "openings", "accumulators are not the product",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_in_an_answer_is_found(opened: Any, name: str) -> None:
    edit, where, what = LIES[name]
    receipt, question, answer = opened
    forged = dict(answer)
    edit(forged)
    status, value = judged(receipt, question, forged)[where]
    assert status == "FAIL"
    assert what in str(value)


def test_an_output_edited_after_decoding(opened: Any) -> None:
    """The forger edits a token and commits to it: the leaf agrees, the logits do not."""
    receipt, _, answer = copy.deepcopy(opened)
    run = receipt["evidence"]["run"]
    at = len(run["token_ids"]) - 1
    run["token_ids"][at] = (run["token_ids"][at] + 1) % 900 + 20
    forgery.retell_ids(receipt)
    said = receipt["evidence"]["trace"]
    columns, hidden = ({i: row.tobytes() for i, row in enumerate(answer[name])} for name in ("columns", "hidden"))
    ids = [*run["prompt_ids"], *run["token_ids"]]
    leaves = challenges.trace_leaves(
        bytes.fromhex(said["run"]), said["nonce"], ids, 0, len(run["prompt_ids"]), columns, hidden
    )
    said["root"] = challenges.trace_root(leaves).hex()
    question = asked(receipt, [len(ids) - 2], [0])
    answer = challenges.read_answer(challenges.open_positions(question, receipt, DEMO_FILE), "answer")
    status, value = judged(receipt, question, answer)["openings"]
    assert status == "FAIL"
    assert "another token was chosen" in str(value)


def test_another_prompts_trace_spliced() -> None:
    """Rows of a run of another prompt, honest in themselves."""
    receipt = forgery.positive()
    other = copy.deepcopy(receipt)
    other["evidence"]["run"]["prompt_ids"][0] += 1
    question = asked(receipt, [7], [1])
    answer = challenges.read_answer(
        challenges.open_positions({**question, "receipt": jcs.digest(other)}, other, DEMO_FILE), "answer"
    )
    assert judged(receipt, question, answer)["opening_root"][0] == "FAIL"


def test_one_weight_flipped(tmp_path: Path) -> None:
    """The runner computes with a model that differs in one trit, consistently, and tells the hash of the true one."""
    data = bytearray(DEMO_FILE.read_bytes())
    with_file = open_gguf(DEMO_FILE)
    offset = with_file.tensors["blk.1.attn_q.weight"].offset
    with_file.close()
    data[offset] ^= 0x40 if data[offset] >> 6 == 1 else (data[offset] >> 6 ^ 1) << 6
    flipped = tmp_path / "flipped.gguf"
    flipped.write_bytes(data)
    params = SamplingParams(max_tokens=8)
    with load(flipped) as model:
        watch = recorder(model)
        with model.stream("ROMEO:", params, measure=True, observer=watch) as stream:
            for _ in stream:
                pass
        receipt = build_receipt(model, stream.result, watch, params, machine=asdict(read_machine()), probe=None)
    n = receipt["evidence"]["trace"]["n_leaves"]
    question = asked(receipt, list(range(n)), [])
    answer = challenges.read_answer(challenges.open_positions(question, receipt, flipped), "answer")
    true = load("demo")
    receipt["evidence"]["model"]["sha256"] = true.file.sha256()
    true.close()
    question["receipt"] = jcs.digest(receipt)
    status, value = judged(receipt, question, answer)["openings"]
    assert status == "FAIL"
    assert "blk.1.attn_q.weight" in str(value)


def test_an_answer_to_another_challenge(opened: Any) -> None:
    receipt, question, answer = opened
    other = forgery.edited(lambda r: r["evidence"]["run"].update(finish_detail="another"))
    assert judged(other, question, answer)["challenge"][0] == "FAIL"
    with pytest.raises(GateError, match="about another receipt"):
        challenges.open_positions(question, other, DEMO_FILE)
    assert judged(receipt, {**question, "positions": [2]}, answer)["openings"][0] == "FAIL"


def test_what_is_no_answer_or_no_challenge() -> None:
    pickled = io.BytesIO()
    np.savez(pickled, columns=np.array([{}], object))
    for data in (b"", b"PK\x03\x04", pickled.getvalue()):
        with pytest.raises(FormatError, match="not an answer"):
            challenges.read_answer(data, "answer")
    for data in (b"[]", b"{}", b'{"format": "tritium-challenge-1", "kind": "open"}'):
        with pytest.raises(FormatError, match="not a challenge"):
            challenges.parse(data, "challenge")
    with pytest.raises(UnsupportedError, match="a trace of all positions"):
        challenges.ask_openings(forgery.bare(), 0, 1, 1)


def test_a_product_is_checked_in_range_and_modulo_a_prime() -> None:
    source = np.random.default_rng(0)
    trits = source.integers(-1, 2, (40, 100), np.int8)
    q = source.integers(-128, 128, (3, 100), np.int8)
    z = freivalds.accumulate(q, trits)
    assert np.array_equal(z, q.astype(np.int64) @ trits.T.astype(np.int64))
    probe = freivalds.make_probe(trits)
    assert freivalds.is_product(probe, q, z)
    for _ in range(50):
        wrong = z.copy()
        wrong[source.integers(3), source.integers(40)] += source.integers(1, 100)
        assert not freivalds.is_product(probe, q, wrong)
    assert not freivalds.is_product(probe, q, z - np.int32(freivalds.PRIME))


def test_from_the_command_line(tmp_path: Path) -> None:
    question, answer = tmp_path / "question.json", tmp_path / "answer.npz"
    assert tritium("challenge", "open", forgery.POSITIVE, "--positions", "2", "-o", question).returncode == 0
    assert tritium("respond", question, "--receipt", forgery.POSITIVE, "-o", answer).returncode == 0
    checked = tritium("challenge", "check", question, answer, "--receipt", forgery.POSITIVE)
    assert checked.returncode == 0, checked.stdout
    assert "E5a: 2 of" in checked.stdout
    assert tritium("challenge", "check", question, answer).returncode == 2
    assert tritium("respond").returncode == 2
    other = tmp_path / "other.json"
    other.write_text(json.dumps(forgery.edited(lambda r: r["evidence"]["run"].update(finish_detail="x"))), "utf-8")
    assert tritium("challenge", "check", question, answer, "--receipt", other).returncode == 1


def test_a_fresh_prompt_by_files(tmp_path: Path) -> None:
    question, answer = tmp_path / "question.json", tmp_path / "answer.json"
    assert tritium("challenge", "run", "--tokens", "20", "-o", question).returncode == 0
    assert tritium("respond", question, "-o", answer).returncode == 0
    checked = tritium("challenge", "check", question, answer, "--json")
    verdict = json.loads(checked.stdout)
    found = {c["id"]: c["status"] for c in verdict["checks"]}
    assert (found["challenge"], found["replay_ids"], found["replay_trace"]) == ("PASS", "PASS", "PASS")
    assert found["verifier_clock"] in ("PASS", "INCONCLUSIVE")
    again = json.loads(question.read_text("utf-8"))
    again["nonce"] = "00" * 16
    question.write_text(json.dumps(again), "utf-8")
    assert tritium("challenge", "check", question, answer).returncode == 1


def test_the_verifiers_clock() -> None:
    receipt = forgery.positive()
    run, said = receipt["evidence"]["run"], receipt["evidence"]["trace"]
    said["nonce"] = "question"
    question = {"nonce": "question", "prompt_ids": run["prompt_ids"], "max_tokens": run["max_tokens"],
                "model_sha256": receipt["evidence"]["model"]["sha256"]}  # fmt: skip

    def clock(elapsed_ns: int) -> str:
        return {c.id: c.status for c in challenges.clock_checks(question, receipt, elapsed_ns, 0.5)}["verifier_clock"]

    assert clock(run["wall_ns"] - 1) == "FAIL"
    assert clock(run["wall_ns"] + 1) == "PASS"
    assert clock(run["wall_ns"] * 3) == "INCONCLUSIVE"


def test_questions_over_a_socket(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    server = threading.Thread(target=serve, args=(place, lambda question: question[::-1], 2))
    server.start()
    for question in (b"abc", b"x" * 3_000_000 + b"y"):
        for _ in range(200):
            if place.exists():
                break
            time.sleep(0.01)
        assert ask(place, question) == question[::-1]
    server.join(10)
    assert not place.exists()
