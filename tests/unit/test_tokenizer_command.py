"""The command ``tokenize``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tritium.cli import invoke


@pytest.fixture(scope="module")
def model(shared_data: Path) -> str:
    return str(shared_data / "tokenizers" / "ggml-vocab-llama-spm.gguf")


def test_one_line_a_token(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["tokenize", "-m", model, "Hello </s>🦙"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["    1  '<s>'  control", "15043  ' Hello'"]
    assert lines[-1] == "  156  b'\\x99'  byte"
    assert all("</s>" not in line for line in lines)


def test_ids_and_special_tokens(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["tokenize", "-m", model, "--ids", "--parse-special", "Hello</s>"]) == 0
    assert capsys.readouterr().out == "1 15043 2\n"
    assert invoke(["tokenize", "-m", model, "--ids", "--no-special", "Hello"]) == 0
    assert capsys.readouterr().out == "15043\n"


def test_json_from_a_file(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"Hello world\r\n")
    assert invoke(["tokenize", "-m", model, "--json", "-f", str(path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ids"] == [1, 15043, 3186, 30004, 13]
    assert answer["n_tokens"] == 5
    assert answer["tokens"][1] == {"id": 15043, "type": "normal", "text": " Hello"}
    assert answer["tokens"][-1] == {"id": 13, "type": "byte", "text": "\n"}


def test_decode_from_standard_input(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1, 15043, 3186]\n")))
    assert invoke(["tokenize", "-m", model, "--decode", "--no-special"]) == 0
    assert capsys.readouterr().out == "Hello world\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--decode", "one two"], 2, "not a list of token ids"),
        (["--decode", "32000"], 2, "token id out of range"),
        (["--ids", "--json", "x"], 2, "exclude each other"),
        (["--decode", "--ids", "1"], 2, "excludes"),
        (["-f", "/nonexistent/file"], 3, "/nonexistent/file"),
    ],
)
def test_wrong_usage(
    model: str, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["tokenize", "-m", model, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_text_that_is_not_utf8_and_files_that_are_not_models(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"ab\xff")
    assert invoke(["tokenize", "-m", model, "-f", str(path)]) == 2
    assert "byte 2" in capsys.readouterr().err
    assert invoke(["tokenize", "-m", str(path), "x"]) == 4
    assert invoke(["tokenize", "-m", str(tmp_path / "nothing"), "x"]) == 3
