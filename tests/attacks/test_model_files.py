"""Files that are sound GGUF and no sound model: loading gives one error with the path and the place, exit 4, fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_models import TINY, metadata, tensors
from tritium.cli import invoke
from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS

NAME = "relu2_mha_tied"
P = "bitnet-b1.58"
Q = "blk.1.attn_q.weight"
Keys = dict[str, Any]
Tensors = dict[str, tuple[tuple[int, ...], str, np.ndarray]]


def run(path: Path, change: Callable[[Keys, Tensors], None]) -> tuple[int, float]:
    """Write a tiny model with a change in it, run it, and return the exit code and the seconds taken."""
    keys, content = dict(metadata(TINY[NAME])), dict(tensors(TINY[NAME], 1))
    change(keys, content)
    with GGUFWriter(path) as writer:
        for key, value in keys.items():
            writer.add(key, value)
        for name, (shape, layout, _) in content.items():
            writer.declare(name, shape, layout)
        for name, (_, _, data) in content.items():
            writer.write(name, data)
    start = time.process_time()
    code = invoke(["run", "-m", str(path), "he", "-n", "1", "--max-context", "64"])
    return code, time.process_time() - start


def refused(path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Keys, Tensors], None]) -> str:
    code, seconds = run(path, change)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tritium: ")]
    assert code == 4
    assert seconds < 1
    assert len(lines) == 1
    assert str(path) in lines[0]
    return lines[0]


def with_values(name: str, index: int, value: float) -> Callable[[Keys, Tensors], None]:
    def change(_: Keys, content: Tensors) -> None:
        shape, layout, data = content[name]
        words = data.copy().view({"f32": "<f4", "f16": "<f2"}[layout])
        words[index] = value
        content[name] = shape, layout, words.view(np.uint8)

    return change


def test_the_unchanged_model_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "m.gguf", lambda keys, content: None)[0] == 0
    assert "1 token" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        f"{P}.context_length",
        f"{P}.embedding_length",
        f"{P}.block_count",
        f"{P}.feed_forward_length",
        f"{P}.attention.head_count",
        f"{P}.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
    ],
)
def test_missing_key(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    assert key in refused(tmp_path / "m.gguf", capsys, lambda keys, content: keys.pop(key))


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", Q, "blk.0.ffn_sub_norm.weight"])
def test_missing_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert name in refused(tmp_path / "m.gguf", capsys, lambda keys, content: content.pop(name))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{P}.block_count", 0),
        (f"{P}.block_count", 3),
        (f"{P}.block_count", 4_000_000_000),
        (f"{P}.block_count", "2"),
        (f"{P}.embedding_length", 64),
        (f"{P}.attention.head_count", 3),
        (f"{P}.attention.head_count", 0),
        (f"{P}.attention.head_count_kv", 3),
        (f"{P}.attention.layer_norm_rms_epsilon", float("nan")),
        (f"{P}.attention.layer_norm_rms_epsilon", -1e-5),
        (f"{P}.rope.freq_base", float("inf")),
        (f"{P}.rope.dimension_count", 16),
        (f"{P}.feed_forward_length", 257),
        (f"{P}.context_length", 0),
        (f"{P}.vocab_size", 5),
        ("general.architecture", "mamba"),
        ("tokenizer.ggml.tokens", ["a", "b"]),
    ],
)
def test_wrong_value(tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any) -> None:
    refused(tmp_path / "m.gguf", capsys, lambda keys, content: keys.update({key: value}))


@pytest.mark.parametrize("shape", [(128, 64), (64, 128), (128, 128, 1), (16384,)])
def test_wrong_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...]) -> None:
    def change(_: Keys, content: Tensors) -> None:
        content[Q] = shape, "i2_s", np.zeros(LAYOUTS["i2_s"].nbytes(shape), np.uint8)

    assert Q in refused(tmp_path / "m.gguf", capsys, change)


@pytest.mark.parametrize("layout", ["f16", "q8_0"])
def test_weights_that_are_not_ternary(tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str) -> None:
    def change(_: Keys, content: Tensors) -> None:
        content[Q] = (128, 128), layout, np.zeros(LAYOUTS[layout].nbytes((128, 128)), np.uint8)

    assert Q in refused(tmp_path / "m.gguf", capsys, change)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blk.0.attn_norm.weight", "output_norm.weight", "token_embd.weight"])
def test_value_that_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, bad: float) -> None:
    line = refused(tmp_path / "m.gguf", capsys, with_values(name, 77, bad))
    assert name in line
    assert "not finite" in line


@pytest.mark.parametrize("at", [0, 1, 2047, 4095])
def test_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int) -> None:
    def change(_: Keys, content: Tensors) -> None:
        shape, layout, data = content[Q]
        data = data.copy()
        data[at] |= 0b11
        content[Q] = shape, layout, data

    line = refused(tmp_path / "m.gguf", capsys, change)
    assert Q in line
    assert "invalid ternary code" in line


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scale_that_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: float) -> None:
    def change(_: Keys, content: Tensors) -> None:
        shape, layout, data = content[Q]
        data = data.copy()
        data[4096:4100] = np.array([bad], "<f4").view(np.uint8)
        content[Q] = shape, layout, data

    line = refused(tmp_path / "m.gguf", capsys, change)
    assert Q in line
    assert "not finite" in line


def test_a_tensor_that_nothing_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(_: Keys, content: Tensors) -> None:
        content["blk.0.attn_q.bias"] = (128,), "f32", np.zeros(512, np.uint8)

    assert "blk.0.attn_q.bias" in refused(tmp_path / "m.gguf", capsys, change)
