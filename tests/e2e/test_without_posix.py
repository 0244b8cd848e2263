"""The command line on a system that is no POSIX, as far as one can be had here: it works, or says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "without_posix.py"
DEMO = Path(__file__).parents[2] / "src" / "tritium" / "data" / "demo.gguf"
LINES = (
    ("doctor", "--json"),
    ("inspect", "demo", "--gate", "auto", "--check"),
    ("tokenize", "-m", "demo", "a b"),
    ("plan", "demo"),
    ("keygen", "key", "--trust", "trust.json", "--name", "somebody", "--role", "receipt", "--role", "log"),
    ("run", "-m", "demo", "ROMEO:", "-n", "16", "--temperature", "0", "--repeats", "2", "--receipt", "receipt.json"),
    ("verify-receipt", "receipt.json", "--json"),
    ("sign", "receipt.json", "--key", "key", "-o", "signed.json"),
    ("verify-receipt", "signed.json", "--trust", "trust.json"),
    ("log", "create", "log", "--key", "key", "--origin", "somebody"),
    ("log", "append", "log", "signed.json", "--key", "key", "-o", "proof.txt"),
    ("challenge", "open", "receipt.json", "-o", "challenge.json"),
    ("respond", "challenge.json", "--receipt", "receipt.json", "-o", "answer.json"),
    ("challenge", "check", "challenge.json", "answer.json", "--receipt", "receipt.json"),
    ("benchmark", "-m", "demo", "--tokens", "8", "--report", "report.md", "--no-output"),
    ("timing", "-m", "demo", "--output-dir", "timing"),
    ("make-model", "--shape", "tiny", "--vocab", str(DEMO), "-o", "small.gguf"),
)
NO_SOCKET = "tritium: local sockets are not available here. Exchange challenge and answer as files\n"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the script said of each line, its words before and after them included."""
    folder = tmp_path_factory.mktemp("elsewhere")
    missing = (
        ("respond", "-m", "demo", "--listen", "socket"),
        ("challenge", "run", "--socket", "socket", "-o", "a.json"),
    )
    (folder / "lines.json").write_text(json.dumps([*LINES, *missing]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", SCRIPT, "lines.json"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "TRITIUM_CACHE": str(folder / "cache")}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_module_loads(told: list[dict[str, Any]]) -> None:
    assert told[0]["modules"] > 100


def test_commands_work(told: list[dict[str, Any]]) -> None:
    failed = [each for each in told[1 : 1 + len(LINES)] if each["code"] != 0]
    assert not failed


def test_receipts_tell_what_the_system_does(told: list[dict[str, Any]]) -> None:
    by_line = {tuple(each["line"]): each for each in told[1:-1]}
    machine = json.loads(by_line[LINES[0]]["out"])["machine"]
    assert (machine["os"], machine["architecture"]) in (("windows", "x86_64"), ("windows", "aarch64"))
    assert machine["cpu"] is None
    assert machine["flags"] == []
    assert "key: the private key, as private as its folder" in by_line[LINES[4]]["log"]
    verdict = json.loads(by_line[LINES[6]]["out"])
    assert "FAIL" not in json.dumps(verdict)
    assert told[-1]["locks"] == 2  # the log was made, then grew


def test_what_needs_a_local_socket_says_so(told: list[dict[str, Any]]) -> None:
    assert [(each["code"], each["log"]) for each in told[-3:-1]] == [(4, NO_SOCKET)] * 2


def test_output_is_utf_8_whatever_the_system_prefers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tritium", "plan", "demo"], capture_output=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert "→" in done.stdout.decode()
