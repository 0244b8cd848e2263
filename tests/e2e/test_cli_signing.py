"""keygen, sign, log and the signed side of verify-receipt, as a user meets them."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from command_line import tritium
from tritium.cli import invoke
from tritium.receipts.dsse import parse_envelope, signature_fault
from tritium.receipts.keys import parse_public_key
from tritium.receipts.statement import RESULT_TYPE, parse_statement

ORIGIN = "log.example/runs"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with keys, a trust file and an empty log, and the working folder."""
    monkeypatch.chdir(tmp_path)
    assert invoke(["keygen", "run.key", "--trust", "trust.json", "--name", "lab", "--role", "receipt"]) == 0
    assert invoke(["keygen", "log.key", "--trust", "trust.json", "--name", ORIGIN, "--role", "log"]) == 0
    assert invoke(["log", "create", "LOG", "--key", "log.key", "--origin", ORIGIN]) == 0
    return tmp_path


def announce(output: str = "intent.tlog-proof", *more: str) -> int:
    return invoke(
        ["log", "append", "LOG", "--key", "log.key", "--intent", "--model-sha256", "a" * 64, "--prompt-sha256", "b" * 64,
         "--signer", "run.key.pub", "-o", output, *more]
    )  # fmt: skip


def write_receipt(path: Path) -> None:
    path.write_text(
        json.dumps(
            {
                "schema_version": "1.0.0",
                "timestamp": "2026-05-01T12:00:00Z",
                "compute_path": "real",
                "backend": "cpu",
                "kernels": ["i2s_gemv_avx2"],
                "environment": {"BITNET_VERSION": "1", "OS": "linux"},
                "tokens_per_second": 15.0,
            }
        )
    )


def test_a_run_from_question_to_verdict(desk: Path) -> None:
    """The walk of docs/signing.md with the embedded model."""
    ids = tritium("tokenize", "-m", "demo", "--ids", "ROMEO:")
    (desk / "ids.txt").write_text(ids.stdout)
    arguments = ["--model", "demo", "--prompt-ids", "ids.txt", "--signer", "run.key.pub", "--nonce", "abc"]
    assert invoke(["log", "append", "LOG", "--key", "log.key", "--intent", *arguments, "-o", "intent.tlog-proof"]) == 0
    run = tritium("run", "-m", "demo", "ROMEO:", "-n", "12", "--receipt", "receipt.json")
    assert run.returncode == 0, run.stderr
    assert invoke(["sign", "receipt.json", "--key", "run.key", "--intent", "intent.tlog-proof"]) == 0
    assert invoke(["log", "append", "LOG", "receipt.dsse.json", "--key", "log.key", "-o", "result.tlog-proof"]) == 0
    judged = ["verify-receipt", "receipt.dsse.json", "--trust", "trust.json", "--require", "provenance=E4,kernels=E3"]
    assert invoke([*judged, "--nonce", "abc", "--log", "LOG"]) == 0
    proofs = ["--proof", "result.tlog-proof", "--proof", "intent.tlog-proof"]
    assert invoke([*judged, "--nonce", "abc", *proofs]) == 0
    assert invoke([*judged, "--nonce", "abc"]) == 8
    assert invoke([*judged, "--nonce", "another", *proofs]) == 1
    assert invoke(["verify-receipt", "receipt.dsse.json"]) == 2
    assert invoke(["verify-receipt", "receipt.json"]) == 0
    assert invoke(["verify-receipt", "receipt.json", "--trust", "trust.json", "--require", "provenance=E4"]) == 8
    assert invoke(["verify-receipt", "receipt.json", "--trust", "trust.json", "--nonce", "abc"]) == 1
    assert invoke(["log", "verify", "LOG", "--trust", "trust.json", "--max-orphans", "0"]) == 0


def test_the_verdict_is_signed(desk: Path) -> None:
    write_receipt(desk / "receipt.json")
    assert invoke(["keygen", "judge.key"]) == 0
    assert invoke(["verify-receipt", "receipt.json", "--sign-verdict", "judge.key", "-o", "verdict.json"]) == 0
    key = parse_public_key((desk / "judge.key.pub").read_text(), "judge")
    envelope = parse_envelope((desk / "verdict.json").read_bytes(), "verdict")
    assert signature_fault(envelope, lambda key_id: key if key_id == key.id else None) is None
    _, predicate = parse_statement(envelope.payload, RESULT_TYPE)
    assert predicate["verdict"] == "accepted"
    assert predicate["properties"]
    assert not [name for name in predicate["properties"] if name[-2:] not in ("E0", "E1")]
    assert invoke(["verify-receipt", "receipt.json", "--sign-verdict", "judge.key"]) == 2


def test_keys_are_private_and_never_overwritten(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secret = (desk / "run.key").read_text()
    assert stat.S_IMODE((desk / "run.key").stat().st_mode) == 0o600
    capfd.readouterr()
    assert invoke(["keygen", "run.key"]) == 3
    assert "run.key" in capfd.readouterr().err
    assert (desk / "run.key").read_text() == secret
    assert invoke(["keygen", "run.key", "--force", "--json"]) == 0
    shown = capfd.readouterr()
    fresh = (desk / "run.key").read_text()
    assert fresh != secret
    assert fresh.split("\n")[1] not in shown.out + shown.err
    assert json.loads(shown.out)["key_id"] == parse_public_key((desk / "run.key.pub").read_text(), "key").id


def test_rotation(desk: Path) -> None:
    old = next(row for row in json.loads((desk / "trust.json").read_text())["keys"] if row["name"] == "lab")
    arguments = ["--trust", "trust.json", "--name", "lab", "--role", "receipt"]
    assert invoke(["keygen", "new.key", *arguments, "--retire", "0" * 64]) == 2
    assert not (desk / "new.key").exists()
    assert invoke(["keygen", "new.key", *arguments, "--retire", old["key_id"]]) == 0
    rows = {row["key_id"]: row for row in json.loads((desk / "trust.json").read_text())["keys"]}
    assert len(rows) == 3
    assert "not_after" in rows[old["key_id"]]
    assert invoke(["keygen", "other.key", "--trust", "trust.json"]) == 2


def test_orphans_are_listed(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert announce("first") == announce("second") == 0
    capfd.readouterr()
    assert invoke(["log", "verify", "LOG", "--trust", "trust.json"]) == 0
    assert "announced 2, registered 0, orphans 2\norphan   0: " in capfd.readouterr().out
    assert invoke(["log", "verify", "LOG", "--trust", "trust.json", "--max-orphans", "1"]) == 1
    capfd.readouterr()
    assert invoke(["log", "verify", "LOG", "--trust", "trust.json", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["orphans"] == [0, 1]


def test_proofs_travel_without_the_log(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert announce() == 0
    (desk / "old").write_bytes((desk / "LOG" / "checkpoint").read_bytes())
    assert announce("second") == 0
    for arguments in (["--index", "0"], ["--since", "old"]):
        assert invoke(["log", "prove", "LOG", "--trust", "trust.json", *arguments, "-o", "proof"]) == 0
        (desk / "LOG").rename(desk / "away")
        since = ["--since", "old"] if arguments[0] == "--since" else []
        assert invoke(["log", "verify", "proof", "--trust", "trust.json", *since]) == 0
        (desk / "away").rename(desk / "LOG")
    assert invoke(["log", "verify", "proof", "--trust", "trust.json"]) == 2
    assert invoke(["log", "verify", "LOG", "--trust", "trust.json", "--since", "old"]) == 0
    assert invoke(["log", "prove", "LOG", "--trust", "trust.json", "--index", "2"]) == 2
    write_receipt(desk / "receipt.json")
    assert invoke(["sign", "receipt.json", "--key", "run.key"]) == 0
    assert invoke(["log", "prove", "LOG", "--trust", "trust.json", "--receipt", "receipt.dsse.json"]) == 1
    assert "the receipt is not registered" in capfd.readouterr().err


def test_a_damaged_log_is_rejected(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert announce() == 0
    tile = desk / "LOG/tile/0/000.p/1"
    tile.write_bytes(tile.read_bytes()[:-1])
    capfd.readouterr()
    assert invoke(["log", "verify", "LOG", "--trust", "trust.json"]) == 1
    assert "a tile has the wrong length" in capfd.readouterr().err
    assert announce("second") == 1


def test_signing_what_was_not_announced(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert announce() == 0
    write_receipt(desk / "receipt.json")
    capfd.readouterr()
    assert invoke(["sign", "receipt.json", "--key", "run.key", "--intent", "intent.tlog-proof"]) == 1
    assert "the intent announced another run" in capfd.readouterr().err
    assert not (desk / "receipt.dsse.json").exists()


def test_signing_what_is_no_receipt(desk: Path) -> None:
    (desk / "receipt.json").write_text('{"a": 1}')
    assert invoke(["sign", "receipt.json", "--key", "run.key"]) == 4
    (desk / "receipt.json").write_text("{")
    assert invoke(["sign", "receipt.json", "--key", "run.key"]) == 4
    assert invoke(["sign", "nothing.json", "--key", "run.key"]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--intent"],
        ["--intent", "--model-sha256", "a" * 64],
        ["receipt.dsse.json", "--intent"],
        ["receipt.dsse.json", "--nonce", "x"],
    ],
)
def test_append_wants_one_thing(desk: Path, arguments: list[str]) -> None:
    assert invoke(["log", "append", "LOG", "--key", "log.key", *arguments]) == 2


@pytest.mark.parametrize(
    "more", [["--model-sha256", "A" * 64], ["--prompt-sha256", "b"], ["--nonce", "two words"], ["--nonce", ""]]
)
def test_announcements_are_checked(desk: Path, more: list[str]) -> None:
    assert announce("intent", *more) == 4
    assert invoke(["log", "verify", "LOG", "--trust", "trust.json", "--json"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["keygen", "k"],
        ["sign", "receipt.json", "--key", "run.key"],
        ["log", "create", "L", "--key", "run.key", "--origin", "o"],
    ],
)
def test_without_the_extra(
    desk: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_receipt(desk / "receipt.json")
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert invoke(arguments) == 4
    assert "pip install 'tritium[sign]'" in capfd.readouterr().err
