"""Files that are meant to hurt whoever reads them: refused by name, in time that grows with their length, in printable words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import receipt_forgery as forgery
from command_line import tritium
from signing_scene import RUNNER, trusted
from tritium.receipts.dsse import sign_payload
from tritium.receipts.keys import Trust, trust_document
from tritium.receipts.statement import receipt_statement

PATIENCE_S = 120
"""Far above what any of these takes, far below what one takes whose length counts twice."""


def with_text(old: str, new: str) -> bytes:
    text = json.dumps(forgery.bare())
    assert old in text
    return text.replace(old, new).encode("utf-8", "surrogatepass")


def bare_with(**fields: object) -> bytes:
    return json.dumps({**forgery.bare(), **fields}).encode()


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "strict_json"),
    "no_object": (b"[]", "schema"),
    "mark_of_order": (b"\xef\xbb\xbf" + bare_with(), "strict_json"),
    "utf_16": (bare_with().decode().encode("utf-16"), "strict_json"),
    "not_a_number": (with_text("15.3", "NaN"), "strict_json"),
    "infinity": (with_text("15.3", "-Infinity"), "strict_json"),
    "beyond_floats": (with_text("15.3", "1e999"), "strict_json"),
    "five_thousand_digits": (with_text("15.3", "9" * 5000), "strict_json"),
    "lone_surrogate": (with_text('"cpu"', '"\\ud800"'), "strict_json"),
    "lone_surrogate_in_a_key": (with_text('"backend"', '"\\udfff": 1, "backend"'), "strict_json"),
    "surrogate_in_utf_8": (with_text('"cpu"', '"\ud800"'), "strict_json"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "strict_json"),
    "a_string_of_quotes_without_end": (b'"' + b'\\"' * 1_000_000, "strict_json"),
    "a_key_twice_at_the_end": (
        ("{" + ",".join(f'"k{i}":0' for i in range(300_000)) + ',"k299999":1}').encode(), "strict_json",
    ),
    "eight_megabytes_and_some": (bare_with(x="y" * (8 << 20)), "strict_json"),
    "an_endless_kernel": (bare_with(kernels=["i2s_gemv" + "x" * 1_000_000]), "kernels"),
    "many_passes": (json.dumps(forgery.edited(
        lambda r: r["evidence"]["run"].update(passes=r["evidence"]["run"]["passes"] * 150))).encode(), "positions"),
    "a_line_that_looks_like_a_verdict": (bare_with(compute_path="\naccepted · policy \x1b[2J"), "compute_path"),
    "a_line_that_runs_backwards": (bare_with(kernels=["\u202etpecca"]), "known_kernels"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    for name, (data, _) in TEXTS.items():
        (made / f"{name}.json").write_bytes(data)
    return made


def alone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tritium.gates", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def told(folder: Path) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """What the standalone judge says of each file, and the command of the folder."""
    return alone(*sorted(folder.glob("*.json"))), tritium("verify-receipt", folder, "--json")


def test_both_judges_refuse_each_for_its_fault(told: tuple[subprocess.CompletedProcess[str], ...]) -> None:
    standalone, judged = told
    assert (judged.returncode, judged.stderr) == (standalone.returncode, standalone.stderr) == (1, "")
    failed = {
        Path(row["path"]).stem: {check["id"] for check in row["checks"] if check["status"] == "FAIL"}
        for row in json.loads(judged.stdout)["receipts"]
    }
    assert {name: expected in failed[name] for name, (_, expected) in TEXTS.items()} == dict.fromkeys(TEXTS, True)
    for name, text in zip(sorted(TEXTS), standalone.stdout.split(".json:\n")[1:], strict=True):
        assert {line.split()[2].rstrip(":") for line in text.splitlines() if line.startswith("FAIL ")} == failed[name]
        assert sum(line.startswith("rejected · policy ") for line in text.splitlines()) == 1


def test_no_word_of_a_receipt_moves_the_cursor_or_fills_the_screen(
    folder: Path, told: tuple[subprocess.CompletedProcess[str], ...]
) -> None:
    spoof = tritium("verify-receipt", folder / "a_line_that_looks_like_a_verdict.json")
    for output in (told[0].stdout, spoof.stdout):
        assert all(line.isprintable() for line in output.splitlines())
        assert not [line for line in output.splitlines() if line.startswith("accepted")]
        assert "\\x1b[2J" in output
        assert max(map(len, output.splitlines())) < 2000


def test_line_ends_of_another_system_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "crlf.json"
    path.write_bytes(json.dumps(forgery.positive(), indent=1).replace("\n", "\r\n").encode())
    assert alone(path).returncode == tritium("verify-receipt", path).returncode == 0


def test_places_that_are_no_receipts(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(forgery.POSITIVE)
    (tmp_path / "folder.json").mkdir()
    assert tritium("verify-receipt", tmp_path).returncode == 0
    assert alone(tmp_path / "link.json").returncode == 0
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "round.json").symlink_to(tmp_path / "round.json")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    judged = tritium("verify-receipt", tmp_path)
    assert judged.returncode == 3
    assert judged.stdout.count("unreadable") == 3
    for name in ("round", "gone", "folder"):
        assert alone(tmp_path / f"{name}.json").returncode == 3
        if name != "folder":
            assert tritium("verify-receipt", tmp_path / f"{name}.json").returncode == 3
    assert alone("/dev/zero").returncode == tritium("verify-receipt", "/dev/zero").returncode == 1


def test_the_worst_of_several_counts(tmp_path: Path) -> None:
    missing, bad = tmp_path / "missing.json", tmp_path / "bad.json"
    bad.write_bytes(b"{")
    assert alone(forgery.POSITIVE, missing).returncode == 3
    assert alone(missing, bad, forgery.POSITIVE).returncode == 1
    assert alone().returncode == 2


def test_a_signed_receipt_is_judged_alone_by_trusted_keys_only(tmp_path: Path) -> None:
    path, trust = tmp_path / "signed.json", tmp_path / "trust.json"
    path.write_bytes(sign_payload(receipt_statement(forgery.positive(), datetime.now(UTC)), [RUNNER]).to_bytes())
    untrusted = alone(path)
    assert untrusted.returncode == 2
    assert "--trust" in untrusted.stderr
    trust.write_text(json.dumps(trust_document(Trust.of([trusted()]))), encoding="utf-8")
    assert alone("--trust", trust, path).returncode == 0
    assert alone("--trust", tmp_path / "none.json", path).returncode == 3
    trust.write_text("{}", encoding="utf-8")
    assert alone("--trust", trust, path).returncode == 4
