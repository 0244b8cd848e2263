"""Logs that forget, fork, run ahead or hide runs; damaged files; each refused for its own reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from signing_scene import LOG, NONCE, ORIGIN, RUNNER, START, STRANGER, Scene, failed, receipt, trusted, undecided
from tritium.errors import FormatError, GateError
from tritium.gates import Demands, LogEvidence
from tritium.receipts import ledger, merkle, notes, tiles
from tritium.receipts.keys import Trust
from tritium.receipts.log_proof import check_consistency, encode_consistency, parse_proof
from tritium.receipts.log_records import audit, parse_entry


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "log")


def read(scene: Scene) -> notes.Checkpoint:
    return ledger.read_checkpoint(scene.folder, scene.trust)


def fill(scene: Scene, count: int) -> None:
    for shift in range(count):
        scene.run(shift)


def test_a_log_entry_removed(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    assert log.entries is not None
    for at in range(len(log.entries)):
        fewer = (*log.entries[:at], *log.entries[at + 1 :])
        assert failed(scene.checks(envelope, replace(log, entries=fewer))) == ["log_root"]
    assert failed(scene.checks(envelope, replace(log, entries=(*log.entries, log.entries[0])))) == ["log_root"]


def test_a_log_cut_behind_the_registration(scene: Scene) -> None:
    """The owner signs a shorter history; the proof that was handed out is ahead of it."""
    shorter = Scene(scene.folder.with_name("shorter"))
    envelope, intent, result = scene.run()
    assert failed(
        scene.checks(envelope, replace(shorter.whole(), result=scene.proof(result), intent=scene.proof(intent)))
    ) == ["log_continuity"]


def test_a_forked_log(scene: Scene) -> None:
    """Two histories under one key: one for the prover, another for the public."""
    public = Scene(scene.folder.with_name("public"))
    envelope, intent, result = scene.run()
    public.run(shift=5)
    checks = scene.checks(envelope, replace(public.whole(), result=scene.proof(result), intent=scene.proof(intent)))
    assert failed(checks) == ["log_continuity"]
    assert "forked" in checks["log_continuity"].hint


def test_a_log_that_was_rewritten_since(scene: Scene) -> None:
    other = Scene(scene.folder.with_name("other"))
    other.run(shift=5)
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    assert failed(scene.checks(envelope, replace(log, since=read(other).text))) == ["log_continuity"]
    assert failed(scene.checks(envelope, replace(log, since=read(scene).text))) == []
    with pytest.raises(GateError, match="the log is forked"):
        ledger.prove_consistency(scene.folder, read(other), read(scene))


def test_a_checkpoint_of_the_future(scene: Scene) -> None:
    """The proof's checkpoint promises more entries than the log has."""
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    scene.run(shift=1)
    assert failed(scene.checks(envelope, replace(log, result=scene.proof(result)))) == ["log_continuity"]
    ahead = read(scene)
    assert log.checkpoint is not None
    older = ledger.open_trusted(log.checkpoint, scene.trust, "checkpoint")[0]
    with pytest.raises(GateError, match="the checkpoint is ahead of the log"):
        ledger.prove_consistency(scene.folder, ahead, older)


def test_a_checkpoint_that_promises_entries_that_are_not_there(scene: Scene) -> None:
    scene.run()
    root = read(scene).root
    promise = notes.sign_checkpoint(ORIGIN, 700, root, LOG)
    (scene.folder / "checkpoint").write_text(promise.text)
    with pytest.raises(GateError, match="a tile of the log is missing"):
        ledger.verify_log(scene.folder, read(scene))


def test_an_entry_of_the_future(scene: Scene) -> None:
    made = receipt()
    intent = scene.announce(made)
    envelope = scene.sign(made, intent)
    result = scene.register(envelope, scene.now + timedelta(hours=1))
    assert failed(scene.checks(envelope, scene.evidence(intent.index, result))) == ["log_inclusion", "log_entries"]


def test_a_checkpoint_of_an_unknown_key(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    scene.trust = Trust.of([trusted(), trusted(STRANGER, "log")])
    checks = scene.checks(envelope, log)
    assert failed(checks) == ["log_inclusion", "intent", "log_root"]
    assert "no trusted key signed" in checks["log_inclusion"].hint


def test_a_log_key_that_had_ended(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    for ended in ({"not_after": START}, {"revoked_at": START + timedelta(days=1)}):
        scene.trust = Trust.of([trusted(), trusted(LOG, "log", **ended)])
        assert failed(scene.checks(envelope, log)) == ["log_inclusion"]


def test_the_proof_of_another_receipt(scene: Scene) -> None:
    envelope, intent, _ = scene.run()
    _, _, other = scene.run(shift=3)
    checks = scene.checks(envelope, scene.evidence(intent, other))
    assert failed(checks) == ["log_inclusion"]
    assert "another receipt" in str(checks["log_inclusion"].value)


def test_the_proof_of_the_intent_in_place_of_the_result(scene: Scene) -> None:
    envelope, intent, _ = scene.run()
    assert failed(scene.checks(envelope, scene.evidence(intent, intent))) == ["log_inclusion"]


def test_a_proof_moved_to_another_index(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    scene.run(shift=1)
    log = scene.evidence(intent, result)
    assert log.result is not None
    moved = replace(log, result=log.result.replace(f"index {result}", f"index {result + 2}"))
    assert failed(scene.checks(envelope, moved)) == ["log_inclusion"]


def test_an_index_beyond_the_checkpoint(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    log = scene.evidence(intent, result)
    assert log.result is not None
    beyond = replace(log, result=log.result.replace(f"index {result}", "index 9000"))
    assert failed(scene.checks(envelope, beyond)) == ["log_inclusion"]


def test_announced_after_the_run(scene: Scene) -> None:
    made = receipt()
    intent = scene.announce(made, at=timedelta(minutes=5))
    envelope = scene.sign(made, intent, minutes=6)
    checks = scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))
    assert failed(checks) == ["intent"]
    assert "run started" in str(checks["intent"].value)


@pytest.mark.parametrize(("late", "refused"), [(1, []), (3, ["intent"])])
def test_announced_seconds_after_the_start(scene: Scene, late: int, refused: list[str]) -> None:
    """Two clocks may differ; by the time that a short run takes they may not."""
    made = receipt()
    intent = scene.announce(made, at=timedelta(seconds=late))
    envelope = scene.sign(made, intent)
    assert failed(scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))) == refused


def test_a_run_longer_than_the_time_between_its_entries(scene: Scene) -> None:
    """The run was over before it was announced; its start was moved to fit."""
    made = receipt()
    made["evidence"]["run"]["wall_ns"] = 300 * 10**9
    intent = scene.announce(made)
    envelope = scene.sign(made, intent, minutes=1)
    checks = scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))
    assert failed(checks) == ["intent"]
    assert "for a run of 0:05:00" in str(checks["intent"].value)


def test_the_announcement_of_another_run(scene: Scene) -> None:
    made = receipt()
    other = receipt()
    other["evidence"]["run"]["prompt_sha256"] = "e" * 64
    intent = scene.announce(other)
    envelope = scene.sign(made, intent)
    checks = scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))
    assert failed(checks) == ["intent"]
    assert str(checks["intent"].value).startswith("prompt: announced")


def test_announced_for_another_nonce(scene: Scene) -> None:
    made = receipt()
    intent = scene.announce(made, nonce="another")
    envelope = scene.sign(made, intent)
    assert failed(scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))) == ["intent"]


def test_announced_by_another_key(scene: Scene) -> None:
    made = receipt()
    scene.signer = STRANGER
    intent = scene.announce(made)
    scene.signer = RUNNER
    envelope = scene.sign(made, intent)
    assert failed(scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))) == ["intent"]


def test_registered_before_it_was_announced(scene: Scene) -> None:
    """The reference is forged in advance, which its leaf hash allows; the order in the log gives it away."""
    made = receipt()
    rehearsal = Scene(scene.folder.with_name("rehearsal"))
    rehearsal.append(b"filler")
    leaf = rehearsal.announce(made)
    envelope = scene.sign(made, leaf)
    scene.register(envelope)
    assert scene.announce(made) == leaf
    checks = scene.checks(envelope, scene.evidence(1, 0))
    assert failed(checks) == ["intent", "log_entries"]


def test_never_announced(scene: Scene) -> None:
    envelope = scene.sign(receipt(), None)
    checks = scene.checks(envelope, scene.evidence(None, scene.register(envelope)))
    assert failed(checks) == []
    assert undecided(checks) == ["intent"]


def test_an_intent_without_a_receipt_is_an_orphan(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    orphan = scene.announce(receipt(START + timedelta(minutes=2)))
    log = scene.evidence(intent, result)
    assert log.entries is not None
    _, faults = audit(log.entries, "log", scene.now)
    assert faults.orphans == (orphan.index,)
    assert faults.is_sound
    checks = scene.checks(envelope, log)
    assert failed(checks) == []
    assert checks["orphans"].value == 1


def test_thirty_intents_and_one_receipt(scene: Scene) -> None:
    for second in range(29):
        scene.announce(receipt(START - timedelta(minutes=1) + timedelta(seconds=second)))
    envelope, intent, result = scene.run()
    checks = scene.checks(envelope, scene.evidence(intent, result))
    assert failed(checks) == ["orphans"]
    assert checks["orphans"].value == 29


def test_another_keys_orphans_are_not_held_against_it(scene: Scene) -> None:
    scene.signer = STRANGER
    for second in range(29):
        scene.announce(receipt(START - timedelta(minutes=1) + timedelta(seconds=second)))
    scene.signer = RUNNER
    envelope, intent, result = scene.run()
    assert failed(scene.checks(envelope, scene.evidence(intent, result))) == []


def test_the_same_timing_vector_under_a_new_id(scene: Scene) -> None:
    first, first_intent, first_result = scene.run()
    copy = receipt(START + timedelta(minutes=3))
    copy["evidence"]["run"]["token_ns"] = [n + 5_000 for n in receipt()["evidence"]["run"]["token_ns"]]
    intent = scene.announce(copy)
    envelope = scene.sign(copy, intent)
    checks = scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))
    assert failed(checks) == ["timing_reuse"]
    assert checks["timing_reuse"].value == f"entry {first_result}"
    # The original is not refused because somebody copied it.
    assert failed(scene.checks(first, scene.evidence(first_intent, first_result))) == []


def test_one_intent_for_two_receipts(scene: Scene) -> None:
    made, second = receipt(), receipt(shift=9)
    intent = scene.announce(made)
    scene.register(scene.sign(made, intent))
    envelope = scene.sign(second, intent)
    checks = scene.checks(envelope, scene.evidence(intent.index, scene.register(envelope)))
    assert failed(checks) == ["log_entries"]


def test_a_registration_that_hides_its_timing(scene: Scene) -> None:
    made = receipt()
    intent = scene.announce(made)
    envelope = scene.sign(made, intent)
    result = scene.register(envelope, timing_sha256=None)
    assert failed(scene.checks(envelope, scene.evidence(intent.index, result))) == ["log_inclusion"]


def test_without_a_log_nothing_is_refused_and_e4_is_not_reached(scene: Scene) -> None:
    envelope, *_ = scene.run()
    checks = scene.checks(envelope, LogEvidence(), Demands(nonce=NONCE))
    assert failed(checks) == []
    assert undecided(checks) == ["log_inclusion", "intent"]


def test_entries_that_are_no_records(scene: Scene) -> None:
    envelope, intent, result = scene.run()
    scene.append(b'{"kind":"advertisement","version":1}')
    assert failed(scene.checks(envelope, scene.evidence(intent, result))) == ["log_root"]
    honest = scene.whole().entries
    assert honest is not None
    for old, new in (
        (b'"version":1', b'"version":2'),
        (b'"version":1', b'"version":1 '),
        (b'"nonce":"', b'"nonce":" '),
        (b'"key_id":"', b'"key_id":"A'),
        (b'"kind":"intent"', b'"kind":"result"'),
        (b"Z\"", b"+00:00\""),
    ):  # fmt: skip
        assert old in honest[0]
        with pytest.raises(FormatError):
            parse_entry(honest[0].replace(old, new), "entry")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 32)


@pytest.mark.parametrize("damage", [_cut, _flip, _grow, Path.unlink], ids=["truncated", "flipped", "longer", "missing"])
@pytest.mark.parametrize(
    "file", ["tile/0/000", "tile/0/001.p/4", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/4"]
)
def test_a_damaged_file(scene: Scene, file: str, damage: Callable[[Path], None]) -> None:
    ledger.append(scene.folder, [f"entry {n}".encode() for n in range(260)], LOG)
    checkpoint = read(scene)
    assert len(ledger.verify_log(scene.folder, checkpoint)) == 260
    damage(scene.folder / file)
    with pytest.raises(GateError, match=r"tile|bundle|entry|tree"):
        ledger.verify_log(scene.folder, checkpoint)


@pytest.mark.parametrize("damage", [_cut, _flip, _grow, Path.unlink], ids=["truncated", "flipped", "longer", "missing"])
@pytest.mark.parametrize("file", ["tile/0/001.p/4", "tile/1/000.p/1", "tile/entries/001.p/4"])
def test_nothing_is_appended_behind_damage(scene: Scene, file: str, damage: Callable[[Path], None]) -> None:
    ledger.append(scene.folder, [f"entry {n}".encode() for n in range(260)], LOG)
    before = (scene.folder / "checkpoint").read_bytes()
    damage(scene.folder / file)
    with pytest.raises(GateError):
        ledger.append(scene.folder, [b"more"], LOG)
    assert (scene.folder / "checkpoint").read_bytes() == before


@pytest.mark.parametrize("change", ["size", "root", "origin", "signature"])
def test_an_edited_checkpoint(scene: Scene, change: str) -> None:
    fill(scene, 2)
    text = read(scene).text
    lines = text.split("\n")
    if change == "size":
        lines[1] = str(int(lines[1]) - 1)
    elif change == "root":
        lines[2] = lines[2].replace(lines[2][0], "A" if lines[2][0] != "A" else "B", 1)
    elif change == "origin":
        lines[0] += "2"
    else:
        lines[4] = lines[4][:-3] + ("A==" if not lines[4].endswith("A==") else "Q==")
    (scene.folder / "checkpoint").write_text("\n".join(lines))
    with pytest.raises((GateError, FormatError)):
        read(scene)


def test_tiles_of_another_tree(scene: Scene, tmp_path: Path) -> None:
    """The files agree with each other; only the signed root tells that they are not this log's."""
    other = Scene(tmp_path / "other")
    for each, name in ((scene, b"a"), (other, b"b")):
        ledger.append(each.folder, [name * 5 for _ in range(3)], LOG)
    shutil.rmtree(scene.folder / "tile")
    shutil.copytree(other.folder / "tile", scene.folder / "tile")
    with pytest.raises(GateError, match="does not have the root of its checkpoint"):
        ledger.verify_log(scene.folder, read(scene))
    with pytest.raises(GateError, match="does not have the root of its checkpoint"):
        ledger.prove_inclusion(scene.folder, read(scene), 0)


def test_a_consistency_proof_of_something_else(scene: Scene) -> None:
    fill(scene, 2)
    old = read(scene)
    fill(scene, 3)
    new = read(scene)
    text = encode_consistency(old.size, ledger.prove_consistency(scene.folder, old, new), new)
    assert check_consistency(text, old, scene.trust, "proof") == new
    other = replace(old, root=merkle.EMPTY_ROOT)
    for broken, base in (
        (text.replace("old 4", "old 3"), old),
        (text, other),
        (text, replace(old, origin="log.example/other")),
        (text.replace("\n", "\nAAAA\n", 1), old),
        ("new 4" + text[5:], old),
    ):
        with pytest.raises((GateError, FormatError)):
            check_consistency(broken, base, scene.trust, "proof")


def test_a_bundle_that_claims_more_than_it_has(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="cut short"):
        tiles.decode_entries(b"\xff\xffabc", "bundle")
    with pytest.raises(GateError, match="cut short"):
        tiles.decode_entries(b"\x00", "bundle")


def test_every_character_of_a_proof_counts(scene: Scene) -> None:
    scene.run()
    text = scene.proof(0)
    survivors = []
    for at in range(0, len(text), 3):
        for other in {chr(ord(text[at]) ^ 1), "A", "\ud800", "\n"} - {text[at]}:
            try:
                proof, _ = parse_proof(text[:at] + other + text[at + 1 :], scene.trust, "proof")
            except (FormatError, GateError):
                continue
            if proof.holds():
                survivors.append((at, other))
    assert not survivors


def test_a_proof_without_end(scene: Scene) -> None:
    scene.run()
    text = scene.proof(0)
    head, note = text.split("\n\n", 1)
    with pytest.raises(FormatError, match="not a proof"):
        parse_proof(head + "\nAAAA" * 100 + "\n\n" + note, scene.trust, "proof")
