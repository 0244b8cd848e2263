"""Malformed vocabularies: each gives one error that says where."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritium.engine.byte_bpe import LETTERS
from tritium.engine.tokenizer import Tokenizer
from tritium.errors import FormatError, TritiumError
from tritium.formats.gguf_writer import GGUFWriter

GOOD: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*LETTERS.values(), "he"],
    "tokenizer.ggml.token_type": [1] * 257,
    "tokenizer.ggml.merges": ["h e"],
}
SPM: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<0x00>", "a"],
    "tokenizer.ggml.token_type": [2, 6, 1],
    "tokenizer.ggml.scores": [0.0, 0.0, -1.0],
    "tokenizer.ggml.add_bos_token": False,
}
LACKING = object()


def test_the_unharmed_metadata_load() -> None:
    assert Tokenizer.from_metadata(GOOD).encode("he") == [256]
    assert Tokenizer.from_metadata(SPM).decode([2]) == "a"


@pytest.mark.parametrize(
    ("base", "key", "value", "message"),
    [
        (GOOD, "model", LACKING, r"no tokenizer in this file: expected the key tokenizer.ggml.model"),
        (GOOD, "model", 7, r"tokenizer.ggml.model: expected a string, got 7"),
        (GOOD, "pre", 7, r"tokenizer.ggml.pre: expected a string, got 7"),
        (GOOD, "tokens", LACKING, r"expected the key tokenizer.ggml.tokens"),
        (GOOD, "tokens", "abc", r"tokenizer.ggml.tokens: expected an array of strings"),
        (GOOD, "tokens", [], r"absurd vocabulary size"),
        (GOOD, "tokens", [*LETTERS.values(), b"he"], r"tokenizer.ggml.tokens\[256\]: expected a string, got b'he'"),
        (GOOD, "tokens", [*LETTERS.values(), "h"], r"two tokens have the same text.*'h' as ids"),
        (GOOD, "token_type", [1], r"disagree in length: tokenizer.ggml.token_type: expected 257.*got 1"),
        (GOOD, "token_type", [1] * 256 + [9], r"unknown token type: tokenizer.ggml.token_type\[256\].*got 9"),
        (GOOD, "token_type", [0.5] * 257, r"tokenizer.ggml.token_type: expected an array of numbers"),
        (GOOD, "token_type", [[1]] * 257, r"tokenizer.ggml.token_type: expected an array of numbers"),
        (GOOD, "token_type", [1] * 256 + [6], r"malformed byte token: tokenizer.ggml.tokens\[256\]"),
        (GOOD, "merges", LACKING, r"expected the key tokenizer.ggml.merges"),
        (GOOD, "merges", ["he"], r"malformed merge: tokenizer.ggml.merges\[0\]"),
        (GOOD, "merges", ["h e", "h e l"], r"malformed merge: tokenizer.ggml.merges\[1\]"),
        (GOOD, "merges", ["h e", "h "], r"malformed merge: tokenizer.ggml.merges\[1\]"),
        (GOOD, "merges", ["h e", "a b c", "h"], r"malformed merge: tokenizer.ggml.merges\[1\]"),
        (GOOD, "merges", ["h\n e"], r"merge of an unknown token"),
        (GOOD, "merges", ["h \n e", "h"], r"malformed merge: tokenizer.ggml.merges\[0\]"),
        (GOOD, "merges", ["h e", "h q"], r"merge of an unknown token: tokenizer.ggml.merges, number 1.*'hq'"),
        (GOOD, "merges", ["h zz"], r"number 0.*got 'zz'"),
        (GOOD, "merges", [5], r"tokenizer.ggml.merges\[0\]: expected a string, got 5"),
        (GOOD, "bos_token_id", 257, r"token id out of range: tokenizer.ggml.bos_token_id: expected 0 to 256, got 257"),
        (GOOD, "eos_token_id", 2**32 - 1, r"token id out of range: tokenizer.ggml.eos_token_id"),
        (GOOD, "eot_token_id", -1, r"token id out of range: tokenizer.ggml.eot_token_id"),
        (GOOD, "bos_token_id", "1", r"expected a token id, got '1'"),
        (GOOD, "bos_token_id", True, r"expected a token id, got True"),
        (GOOD, "add_bos_token", 1, r"tokenizer.ggml.add_bos_token: expected a boolean, got 1"),
        (GOOD, "add_bos_token", True, r"expected the key tokenizer.ggml.bos_token_id"),
        (GOOD, "add_eos_token", True, r"expected the key tokenizer.ggml.eos_token_id"),
        (SPM, "scores", LACKING, r"expected the key tokenizer.ggml.scores"),
        (SPM, "scores", [0.0], r"disagree in length: tokenizer.ggml.scores"),
        (SPM, "scores", [0.0, 0.0, float("nan")], r"scores are not finite"),
        (SPM, "scores", np.array([0, 0, np.inf], np.float32), r"scores are not finite"),
        (SPM, "scores", ["a", "b", "c"], r"tokenizer.ggml.scores: expected an array of numbers"),
    ],
)
def test_malformed_metadata(base: dict[str, Any], key: str, value: object, message: str) -> None:
    metadata = dict(base)
    if value is LACKING:
        del metadata[f"tokenizer.ggml.{key}"]
    else:
        metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(FormatError, match=message):
        Tokenizer.from_metadata(metadata)


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        (["h e"], None),
        (["h e", "h e"], None),
        ([], None),
        (["h e", "h"], r"malformed merge: tokenizer.ggml.merges\[1\].*got 'h'"),
        (["h e", "", "h e"], r"malformed merge: tokenizer.ggml.merges\[1\].*got ''"),
        (["h e", "h \n e", "h"], r"malformed merge: tokenizer.ggml.merges\[1\]"),
        (["h\0 e"], r"merge of an unknown token: tokenizer.ggml.merges, number 0"),
    ],
)
def test_merges_in_a_file(tmp_path: Path, merges: list[str], message: str | None) -> None:
    path = tmp_path / "vocabulary.gguf"
    with GGUFWriter(path) as writer:
        for key, value in {**GOOD, "tokenizer.ggml.merges": merges}.items():
            writer.add(key, np.array(value, np.int32) if key.endswith("type") else value)
    if message is None:
        assert len(Tokenizer.from_gguf(path).encode("he")) == (1 if merges else 2)
        return
    with pytest.raises(FormatError, match=message):
        Tokenizer.from_gguf(path)


@pytest.mark.parametrize("is_on", [True, False])
def test_reading_leaves_the_collector_of_cycles_as_it_was(is_on: bool) -> None:
    was_on = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        Tokenizer.from_metadata(GOOD)
        assert gc.isenabled() == is_on
        with pytest.raises(FormatError):
            Tokenizer.from_metadata({**GOOD, "tokenizer.ggml.merges": ["h"]})
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if was_on else gc.disable)()


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "general.architecture"])
def test_strings_of_the_wrong_type(key: str) -> None:
    with pytest.raises(FormatError, match=f"{key}: expected a string"):
        Tokenizer.from_metadata({**GOOD, key: 5})


def test_hostile_sizes_take_bounded_time() -> None:
    n = 100_000
    start = time.process_time()
    tokens = [*LETTERS.values(), *(f"<{i}>" for i in range(n))]
    tokenizer = Tokenizer.from_metadata(
        {**GOOD, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [1] * 256 + [4] * n,
         "tokenizer.ggml.merges": []}
    )  # fmt: skip
    assert tokenizer.encode("<77>" * 1000) == [256 + 77] * 1000
    tokenizer.encode("<" * 200_000)
    with pytest.raises(FormatError, match="unknown token"):
        Tokenizer.from_metadata({**GOOD, "tokenizer.ggml.merges": [f"h x{i}" for i in range(n)]})
    spm = Tokenizer.from_metadata(SPM)
    spm.encode("a" * 100_000)
    assert time.process_time() - start < 8


def test_every_single_harm_is_an_error_of_ours_or_none() -> None:
    values = [None, 0, -1, 1.5, "", "x", [], ["a"], [1], {}, b"", np.zeros(3), np.zeros((2, 2)), [None], [[]], 2**70]
    for base in (GOOD, SPM):
        for key in base:
            for value in values:
                try:
                    Tokenizer.from_metadata({**base, key: value}).encode("he")
                except TritiumError:
                    continue
