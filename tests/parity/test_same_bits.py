"""The promise: the same logits, bit for bit, whatever runs them and however the work is cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwarding import forward, sha256, token_sequences
from tiny_models import TINY, write_tiny
from tritium import backends
from tritium.backends.cpu import isas
from tritium.executor import Executor
from tritium.formats.gguf import open_gguf
from tritium.models import build_graph
from tritium.plan import make_plan

GOLDEN = Path(__file__).with_name("golden.json")
DEMO = Path(__file__).parents[2] / "src" / "tritium" / "data" / "demo.gguf"
LENGTHS = (1, 70, 33, 270)
MODELS = (*TINY, "demo")

# (threads, chunk, seed of a random mix of the sequences in a batch, or None: one after the other)
CUTS = [(threads, chunk, mix) for threads in (1, 2, 3, 5) for chunk, mix in ((1, None), (7, None), (64, None), (None, None),
                                                                           (9, 0), (40, 1), (300, 2))]  # fmt: skip
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
) -> tuple[str, str]:
    """(graph hash, hash of the logits of all tokens)."""
    with open_gguf(path) as file:
        graph = build_graph(file.metadata, file.tensors)
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


@pytest.mark.parametrize("name", ["relu2_gqa_tied_chat", "llama_gqa_untied_wide_heads"])
def test_the_reference_does_not_care_how_work_is_cut(name: str, tmp_path: Path) -> None:
    path = model(name, tmp_path)
    golden = json.loads(GOLDEN.read_text())[name]["logits"]
    for chunk, mix in ((7, None), (40, 1)):
        assert run(path, "reference", chunk=chunk, mix=mix)[1] == golden
