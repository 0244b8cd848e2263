"""Synthetic models: the statistics that are planted, sizes, determinism, memory, and the command."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tritium.bench.planted import measure
from tritium.bench.synthetic import HEADS, LAYOUT_NAMES, SHAPES, Recipe, make_model
from tritium.cli import invoke
from tritium.cli.make_model import SHAPE_NAMES
from tritium.formats.gguf import GGUFFile, open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.models import build_graph

TINY = SHAPES["tiny"]
# As wide as a real model, so that chance stays small beside what is planted; otherwise small.
WIDE = replace(SHAPES["2b4t"], n_layers=3, d_ff=1024, n_heads=4, n_kv_heads=2)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    path = tmp_path_factory.mktemp("vocabulary") / "v.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        writer.add("llama.context_length", 7)
        writer.add("tokenizer.ggml.model", "gpt2")
        writer.add("tokenizer.ggml.tokens", [f"t{i}" for i in range(3000)])
        writer.add("tokenizer.ggml.token_type", np.ones(3000, np.int32))
    return open_gguf(path)


def test_the_statistics_are_planted(tmp_path: Path, vocabulary: GGUFFile) -> None:
    written = make_model(Recipe(WIDE, seed=3), vocabulary, tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        seen = measure(file, 48)
        ternary = [file.trits(name)[0] for name, info in file.tensors.items() if info.layout == "i2_s"]
    assert written.zero_trits == sum(int((t == 0).sum()) for t in ternary) / sum(t.size for t in ternary)
    assert seen.zero_trits == written.zero_trits
    assert abs(written.zero_trits - 0.42) < 0.003
    assert abs(seen.zeros_before_down - 0.80) < 0.015
    assert abs(seen.top_cosine - 0.15) < 0.015
    assert 10 < seen.top_logit < 40
    assert seen.largest_key < 100


def test_plain_models_have_none_of_them(tmp_path: Path, vocabulary: GGUFFile) -> None:
    written = make_model(Recipe(WIDE, plain=True), vocabulary, tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        seen = measure(file, 32)
        assert file.unpack("output_norm.weight").min() > 0
    assert abs(written.zero_trits - 1 / 3) < 0.003
    assert abs(seen.zeros_before_down - 0.5) < 0.03
    assert abs(written.n_bytes - (tmp_path / "m.gguf").stat().st_size) == 0


@pytest.mark.parametrize("layout", sorted(LAYOUT_NAMES))
@pytest.mark.parametrize("head", HEADS)
def test_layouts_hold_the_same_trits(tmp_path: Path, vocabulary: GGUFFile, layout: str, head: str) -> None:
    make_model(Recipe(TINY, layout, head, seed=5), vocabulary, tmp_path / "m.gguf")
    make_model(Recipe(TINY, seed=5), vocabulary, tmp_path / "plain.gguf")
    with open_gguf(tmp_path / "m.gguf") as file, open_gguf(tmp_path / "plain.gguf") as base:
        assert file.tensors["token_embd.weight"].layout == head
        for name, info in file.tensors.items():
            file.check(name)
            if info.layout == LAYOUT_NAMES[layout]:
                trits, scales = file.trits(name)
                assert (trits == base.trits(name)[0]).all()
                assert np.allclose(scales, base.trits(name)[1], rtol=2**-11)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_make_graphs(tmp_path: Path, vocabulary: GGUFFile, name: str) -> None:
    shape = replace(SHAPES[name], n_layers=1, d_ff=256, max_context=64)
    make_model(Recipe(shape), vocabulary, tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        config = build_graph(file).config
        assert list(file.metadata)[-3:] == [
            "tokenizer.ggml.model",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.token_type",
        ]
        assert "llama.context_length" not in file.metadata or config.max_context == 64
    assert (config.d_model, config.n_heads, config.n_kv_heads) == (shape.d_model, shape.n_heads, shape.n_kv_heads)
    assert (config.head_dim, config.tied_head, config.sub_norms) == (shape.head_dim, shape.tied_head, shape.sub_norms)
    assert (config.vocab_size, config.rope_theta) == (3000, shape.rope_theta)


def test_the_command_knows_all_shapes() -> None:
    assert set(SHAPE_NAMES) == set(SHAPES)


def test_the_same_options_give_the_same_file(tmp_path: Path, vocabulary: GGUFFile) -> None:
    hashes = []
    for seed in (1, 1, 2):
        make_model(Recipe(TINY, seed=seed), vocabulary, tmp_path / "m.gguf")
        hashes.append(hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest())
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] == "b4ea4ca82da040deed52d6ff26c79397ce48fadbf19d5467937a05e1e90e138f"


def test_one_matrix_in_memory_at_a_time(tmp_path: Path, vocabulary: GGUFFile) -> None:
    shape = replace(SHAPES["2b4t"], n_layers=2)
    tracemalloc.start()
    try:
        make_model(Recipe(shape), vocabulary, tmp_path / "m.gguf")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * shape.d_model * shape.d_ff


def test_the_commands_make_and_inspect(
    tmp_path: Path, vocabulary: GGUFFile, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.gguf"
    arguments = ["make-model", "--shape", "tiny", "--layers", "2", "--architecture", "bitnet", "--head", "q6_k"]
    assert invoke([*arguments, "--vocab", str(vocabulary.path), "-o", str(path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["shape"]["architecture"] == "bitnet"
    assert made["bytes"] == path.stat().st_size
    assert made["measured"]["n_tokens"] == 64
    assert invoke(["inspect", str(path), "--json", "--check"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (seen["architecture"], seen["hyperparameters"]["block_count"]) == ("bitnet", 2)
    assert seen["tokenizer"]["tokens"] == 3000
    assert seen["layouts"]["i2_s"]["weights"] == made["ternary_weights"]
    assert seen["layouts"]["q6_k"]["bits_per_weight"] == 6.5625
    assert sum(tensor["bytes"] for tensor in seen["tensors"]) == sum(row["bytes"] for row in seen["layouts"].values())


def test_inspect_prints_tables(tmp_path: Path, vocabulary: GGUFFile, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(Recipe(TINY), vocabulary, tmp_path / "m.gguf")
    assert invoke(["inspect", str(tmp_path / "m.gguf"), "--tensors"]) == 0
    text = capsys.readouterr().out
    assert "architecture  bitnet-b1.58" in text
    assert "tokenizer     gpt2, 3,000 tokens" in text
    assert "blk.3.ffn_down.weight" in text
    assert invoke(["inspect", str(vocabulary.path)]) == 0
    assert "layout     tensors" in capsys.readouterr().out


def test_inspect_refuses(tmp_path: Path, vocabulary: GGUFFile, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    assert invoke(["inspect", str(path)]) == 3
    make_model(Recipe(TINY), vocabulary, path)
    with open_gguf(path) as file:
        at = file.tensors["blk.1.attn_q.weight"].offset + 5
    data = bytearray(path.read_bytes())
    data[at] = 0xFF
    path.write_bytes(data)
    assert invoke(["inspect", str(path)]) == 0
    capsys.readouterr()
    assert invoke(["inspect", str(path), "--check"]) == 4
    expected = f"invalid ternary code: {path}: tensor blk.1.attn_q.weight, byte {at}: expected 0, 1 or 2, got 3\n"
    assert capsys.readouterr().err == f"tritium: {expected}"
    path.write_bytes(data[:-1])
    assert invoke(["inspect", str(path)]) == 4
    assert invoke(["inspect", str(path), "--i2s-layout", "7"]) == 2


def test_make_model_refuses(tmp_path: Path, vocabulary: GGUFFile, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--vocab", str(vocabulary.path), "-o", str(tmp_path / "m.gguf")]
    assert invoke(["make-model", "--shape", "llama3-8b", "--architecture", "bitnet", *output]) == 2
    assert "--architecture is for bitnet shapes" in capsys.readouterr().err
    assert invoke(["make-model", "--shape", "1bitllm-3b", "--layers", "1", "--layout", "tq2_0", *output]) == 2
    assert "shape does not fit layout tq2_0" in capsys.readouterr().err
    (tmp_path / "empty.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(16))
    bare = ["--vocab", str(tmp_path / "empty.gguf"), "-o", str(tmp_path / "m.gguf")]
    assert invoke(["make-model", "--shape", "tiny", *bare]) == 4
    assert "missing key" in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists()
