"""The promise: the same logits, bit for bit, whatever runs them and however the work is cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwarding import forward, sha256, token_sequences
from tiny_models import TINY, TinyConfig, write_tiny
from tritium import backends
from tritium.backends.cpu import isas
from tritium.executor import Executor
from tritium.formats.gguf import open_gguf
from tritium.graph import with_cache
from tritium.models import build_graph
from tritium.plan import make_plan

GOLDEN = Path(__file__).with_name("golden.json")
DEMO = Path(__file__).parents[2] / "src" / "tritium" / "data" / "demo.gguf"
LENGTHS = (1, 70, 33, 270)
MODELS = (*TINY, "demo")

# (threads, chunk, seed of a random mix of the sequences in a batch, or None: one after the other)
CUTS = [(threads, chunk, mix) for threads in (1, 2, 3, 5) for chunk, mix in ((1, None), (7, None), (64, None), (None, None),
                                                                           (9, 0), (40, 1), (300, 2))]  # fmt: skip
INT8_MODELS = ("relu2_gqa_tied_chat", "silu_gqa_tied_head_dim_20", "llama_gqa_untied_wide_heads")
LONG = TinyConfig("bitnet-b1.58", 64, 3, 1, 16, 64, tied=True, n_layers=1, max_context=1536)
CUTS_A_MODEL = {"scalar": 2}
"""Scalar code is slow: its models share fewer cuts. The others' eight models together take every cut."""


def model(name: str, folder: Path) -> Path:
    return DEMO if name == "demo" else write_tiny(folder / f"{name}.gguf", name)


def run(
    path: Path,
    backend: str,
    *,
    threads: int = 1,
    chunk: int | None = None,
    mix: int | None = None,
    lengths: tuple[int, ...] = LENGTHS,
    kv: str = "f16",
) -> tuple[str, str]:
    """(graph hash, hash of the logits of all tokens)."""
    with open_gguf(path) as file:
        graph = with_cache(build_graph(file), kv)
        plan = make_plan(graph, backends.find(backend), max_tokens=300, max_outputs=300)
        sequences = token_sequences(graph.config.vocab_size, lengths)
        blocks = len(lengths) * -(-max(lengths) // plan.kv_block)
        with Executor(plan, file, n_threads=threads, kv_blocks=blocks) as executor:
            return plan.graph_hash, sha256(forward(executor, sequences, chunk, mix))


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_gives_the_golden_bits(name: str, tmp_path: Path) -> None:
    graph, logits = run(model(name, tmp_path), "reference")
    assert {"graph": graph, "logits": logits} == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("isa", isas())
def test_every_instruction_set_gives_the_golden_bits(
    name: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_ISA", isa)
    path = model(name, tmp_path)
    golden = json.loads(GOLDEN.read_text())[name]["logits"]
    n = CUTS_A_MODEL.get(isa, -(-len(CUTS) // len(MODELS)))
    for threads, chunk, mix in CUTS[MODELS.index(name) :: len(MODELS)][:n]:
        assert run(path, "cpu", threads=threads, chunk=chunk, mix=mix)[1] == golden, (threads, chunk, mix)


@pytest.mark.parametrize("name", INT8_MODELS)
def test_a_cache_of_int8_has_golden_bits_of_its_own(name: str, tmp_path: Path) -> None:
    graph, logits = run(model(name, tmp_path), "reference", kv="int8")
    golden = json.loads(GOLDEN.read_text())
    assert {"graph": graph, "logits": logits} == golden[f"{name}, int8 cache"]
    assert graph != golden[name]["graph"]


@pytest.mark.parametrize("name", INT8_MODELS)
@pytest.mark.parametrize("isa", isas())
def test_every_instruction_set_gives_the_bits_of_a_cache_of_int8(
    name: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITIUM_ISA", isa)
    path = model(name, tmp_path)
    golden = json.loads(GOLDEN.read_text())[f"{name}, int8 cache"]["logits"]
    for threads, chunk, mix in CUTS[INT8_MODELS.index(name) :: 9]:
        assert run(path, "cpu", threads=threads, chunk=chunk, mix=mix, kv="int8")[1] == golden, (threads, chunk, mix)


@pytest.mark.parametrize("kv", ["f16", "int8"])
def test_long_contexts_give_the_bits_of_the_reference(kv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six splits of the attention sum, of which some are divided among workers and some are not; two sequences at once."""
    path = write_tiny(tmp_path / "long.gguf", LONG)
    lengths = (1500, 300)
    expected = run(path, "reference", lengths=lengths, kv=kv)
    for isa in isas():
        monkeypatch.setenv("TRITIUM_ISA", isa)
        for threads, chunk, mix in ((1, None, None), (2, 3, None), (3, 100, 2), (5, 1, None)):
            assert run(path, "cpu", threads=threads, chunk=chunk, mix=mix, lengths=lengths, kv=kv) == expected, (
                isa,
                threads,
            )


@pytest.mark.parametrize("name", ["relu2_gqa_tied_chat", "llama_gqa_untied_wide_heads"])
def test_the_reference_does_not_care_how_work_is_cut(name: str, tmp_path: Path) -> None:
    path = model(name, tmp_path)
    golden = json.loads(GOLDEN.read_text())[name]["logits"]
    for chunk, mix in ((7, None), (40, 1)):
        assert run(path, "reference", chunk=chunk, mix=mix)[1] == golden
