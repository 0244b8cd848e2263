"""Signatures that prove nothing: each forgery changes one thing, and is refused for that."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from signing_scene import (
    LOG,
    NONCE,
    ORIGIN,
    RUNNER,
    START,
    STRANGER,
    Scene,
    edited,
    failed,
    receipt,
    trusted,
    undecided,
)
from tritium.gates import Demands, LogEvidence
from tritium.receipts.dsse import Signature, sign_payload
from tritium.receipts.jcs import canonical
from tritium.receipts.keys import Trust
from tritium.receipts.statement import receipt_statement, result_statement


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "log")


def test_the_honest_one_passes(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    checks = scene.checks(envelope, scene.evidence(intent, result), Demands(NONCE, "1" * 40, timedelta(hours=1)))
    assert {check.id: check.status for check in checks.values() if check.status != "PASS"} == {}
    assert set(checks) == {
        "envelope", "signature", "payload_type", "statement", "key_validity", "freshness", "source_commit", "age",
        "log_inclusion", "intent", "log_root", "log_continuity", "log_entries", "orphans", "timing_reuse",
    }  # fmt: skip


def test_one_byte_of_the_payload_edited(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    at = envelope.payload.index(b'"cpu"') + 1
    payload = envelope.payload[:at] + b"g" + envelope.payload[at + 1 :]
    checks = scene.checks(replace(envelope, payload=payload), scene.evidence(intent, result))
    assert failed(checks) == ["signature"]
    assert "is wrong" in str(checks["signature"].value)


def test_speed_edited_after_signing(scene: Scene) -> None:
    envelope, intent, result = scene.run()

    def faster(statement: dict[str, Any]) -> None:
        statement["predicate"]["receipt"]["tokens_per_second"] = 38.0

    assert failed(scene.checks(edited(envelope, faster), scene.evidence(intent, result))) == ["signature"]


def test_one_byte_of_the_file_edited(scene: Scene) -> None:
    envelope, *_ = scene.run()
    data = envelope.to_bytes()
    assert failed(scene.checks(data.replace(b'"payload":', b'"payload" :'), LogEvidence())) == ["envelope"]
    assert failed(scene.checks(json.dumps(json.loads(data), indent=2).encode(), LogEvidence())) == ["envelope"]


def test_unknown_key(scene: Scene) -> None:
    scene.signer = STRANGER
    envelope, intent, result = scene.run()
    checks = scene.checks(envelope, scene.evidence(intent, result))
    assert failed(checks) == ["signature"]
    assert "unknown key" in str(checks["signature"].value)


def test_a_known_key_named_over_a_strangers_signature(scene: Scene) -> None:
    envelope, *_ = scene.run()
    forged = sign_payload(envelope.payload, [STRANGER])
    forged = replace(forged, signatures=(Signature(RUNNER.public.id, forged.signatures[0].value),))
    assert failed(scene.checks(forged, LogEvidence())) == ["signature"]


def test_a_key_of_another_role(scene: Scene) -> None:
    scene.signer = LOG
    envelope, intent, result = scene.run()
    assert failed(scene.checks(envelope, scene.evidence(intent, result))) == ["signature"]


def test_another_media_type(scene: Scene) -> None:
    envelope, *_ = scene.run()
    other = sign_payload(envelope.payload, [RUNNER], "application/json")
    assert failed(scene.checks(other, LogEvidence())) == ["payload_type"]
    relabeled = replace(envelope, payload_type="application/json")
    assert failed(scene.checks(relabeled, LogEvidence())) == ["signature"]


def test_a_verdict_in_place_of_a_receipt(scene: Scene) -> None:
    verdict = result_statement(receipt(), "accepted", {"speed": "E6"}, "0" * 64, START)
    checks = scene.checks(sign_payload(verdict, [RUNNER]), LogEvidence())
    assert failed(checks) == ["payload_type"]
    assert "another type" in checks["payload_type"].hint


def test_a_bare_receipt_under_a_signature(scene: Scene) -> None:
    assert failed(scene.checks(sign_payload(canonical(receipt()), [RUNNER]), LogEvidence())) == ["payload_type"]


@pytest.mark.parametrize("twice", ["same", "other"])
def test_duplicate_signatures(scene: Scene, twice: str) -> None:
    envelope, *_ = scene.run()
    second = envelope.signatures[0] if twice == "same" else Signature(RUNNER.public.id, bytes(64))
    checks = scene.checks(replace(envelope, signatures=(*envelope.signatures, second)), LogEvidence())
    assert failed(checks) == ["signature"]
    assert "signed twice" in str(checks["signature"].value)


def test_a_strangers_signature_beside_a_good_one(scene: Scene) -> None:
    envelope, *_ = scene.run()
    both = sign_payload(envelope.payload, [RUNNER, STRANGER])
    assert failed(scene.checks(both, LogEvidence())) == ["signature"]


def _sign_changed(scene: Scene, change: Any) -> bytes:
    """The signer himself lies: the changed statement, properly signed."""
    statement = json.loads(receipt_statement(receipt(), START + timedelta(minutes=1), nonce=NONCE))
    change(statement)
    return sign_payload(canonical(statement), [RUNNER]).to_bytes()


def _other_subject(statement: dict[str, Any]) -> None:
    statement["subject"][1]["digest"]["sha256"] = "e" * 64


def _fewer_subjects(statement: dict[str, Any]) -> None:
    del statement["subject"][2]


def _other_id(statement: dict[str, Any]) -> None:
    statement["predicate"]["receipt_id"] = "e" * 64


def _more_fields(statement: dict[str, Any]) -> None:
    statement["predicate"]["level"] = "E6"


def _no_time(statement: dict[str, Any]) -> None:
    statement["predicate"]["signed_at"] = "now"


def _bad_intent(statement: dict[str, Any]) -> None:
    statement["predicate"]["intent"] = {"index": True, "leaf": "", "log": ""}


@pytest.mark.parametrize("change", [_other_subject, _fewer_subjects, _other_id, _more_fields, _no_time, _bad_intent])
def test_a_statement_that_is_not_about_its_receipt(scene: Scene, change: Any) -> None:
    assert failed(scene.checks(_sign_changed(scene, change), LogEvidence())) == ["statement"]


def _with_key(scene: Scene, **changes: Any) -> None:
    scene.trust = Trust.of([trusted(**changes), trusted(LOG, "log")])


def test_an_expired_key(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    _with_key(scene, not_after=START - timedelta(days=1))
    assert failed(scene.checks(envelope, scene.evidence(intent, result))) == ["key_validity"]


def test_a_key_not_yet_valid(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    _with_key(scene, not_before=START + timedelta(hours=1))
    assert failed(scene.checks(envelope, scene.evidence(intent, result))) == ["key_validity"]


def test_a_rotated_key_stays_good_for_what_the_log_dates(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    _with_key(scene, not_after=START + timedelta(hours=1))
    scene.now = START + timedelta(days=2)
    assert failed(scene.checks(envelope, scene.evidence(intent, result))) == []
    assert undecided(scene.checks(envelope, scene.evidence(intent, result))) == []
    # Without the log only the signer's word says that the signature is older than the end.
    assert "key_validity" in undecided(scene.checks(envelope, LogEvidence()))


def test_a_revoked_key_back_dates(scene: Scene) -> None:
    made = receipt()
    intent = scene.announce(made)
    envelope = scene.sign(made, intent)
    result = scene.register(envelope, START + timedelta(minutes=8))
    _with_key(scene, revoked_at=START + timedelta(minutes=5))
    assert failed(scene.checks(envelope, scene.evidence(intent.index, result))) == ["key_validity"]
    assert failed(scene.checks(envelope, LogEvidence())) == ["key_validity"]


def test_signed_in_the_future(scene: Scene) -> None:
    envelope = scene.sign(receipt(), None, minutes=60)
    assert failed(scene.checks(envelope, LogEvidence())) == ["age"]


def test_an_answer_to_another_nonce(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    assert failed(scene.checks(envelope, scene.evidence(intent, result), Demands(nonce="fresh"))) == ["freshness"]
    bare = scene.sign(receipt(), None, None)
    assert failed(scene.checks(bare, LogEvidence(), Demands(nonce="fresh"))) == ["freshness"]


def test_a_nonce_put_on_a_run_that_answered_another(scene: Scene) -> None:
    """Signed with the verifier's nonce; the trace was made for an earlier question."""
    made = receipt()
    made["evidence"]["trace"] = {"nonce": "yesterday"}
    envelope = scene.sign(made, None, "today")
    checks = scene.checks(envelope, LogEvidence(), Demands(nonce="today"))
    assert "freshness" in failed(checks)
    assert checks["freshness"].value == "yesterday"


def test_a_replay_that_nobody_asked_a_nonce_for_is_in_doubt(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    assert "freshness" in undecided(scene.checks(envelope, LogEvidence(), Demands()))
    assert "freshness" not in undecided(scene.checks(envelope, scene.evidence(intent, result), Demands()))


def test_yesterdays_receipt_for_todays_commit(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    assert failed(scene.checks(envelope, log, Demands(NONCE, commit="2" * 40))) == ["source_commit"]
    scene.now = START + timedelta(days=1)
    assert failed(scene.checks(envelope, log, Demands(NONCE, max_age=timedelta(hours=20)))) == ["age"]


def test_a_dirty_tree_is_in_doubt_and_not_refused(scene: Scene) -> None:
    made = receipt()
    made["evidence"]["build"]["dirty"] = True
    intent = scene.announce(made)
    envelope = scene.sign(made, intent)
    checks = scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)), Demands(NONCE, "1" * 40))
    assert failed(checks) == []
    assert undecided(checks) == ["source_commit"]


def test_a_log_key_of_another_log(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    scene.trust = Trust.of([trusted(), trusted(LOG, "log", name="log.example/other")])
    checks = scene.checks(envelope, log)
    assert failed(checks) == ["log_inclusion", "intent", "log_root"]
    assert ORIGIN in checks["log_inclusion"].hint
