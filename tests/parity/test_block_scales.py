"""Models whose file has a scale a block: of one value they run as one of a scale a tensor does, on every back end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forwarding import forward, sha256, token_sequences
from tiny_models import TinyConfig, write_tiny
from tritium import backends
from tritium.backends.cpu import isas
from tritium.executor import Executor
from tritium.formats.gguf import open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS
from tritium.models import build_graph
from tritium.plan import make_plan

CONFIG = TinyConfig("bitnet-b1.58", 256, 4, 2, 64, 512, tied=True)
"""Rows of whole blocks of 256."""


def repacked(source: Path, path: Path, layout: str) -> Path:
    """The model in another ternary layout, its scales rounded to float16 and a few blocks of weights 0."""
    target = LAYOUTS[layout]
    with open_gguf(source) as file, GGUFWriter(path) as out:
        for key in file.metadata:
            out.copy(file, key)
        for name, info in file.tensors.items():
            out.declare(name, info.shape, layout if info.layout == "i2_s" else info.layout)
        for name, info in file.tensors.items():
            if info.layout != "i2_s":
                out.write(name, file.data(name))
                continue
            trits, scale = file.trits(name)
            blocks = trits.reshape(-1, 256)
            blocks[:: len(blocks) // 3] = 0
            scales = np.full(len(blocks), np.float16(scale[0]), np.float32)
            scales[(blocks == 0).all(axis=1)] = 0
            out.write(name, target.pack_trits(trits, scales if target.group else scales[1:2]))
    return path


def run(
    path: Path, backend: str, *, threads: int = 1, weight_layout: str = "auto", sparse: str = "off"
) -> tuple[int, str]:
    """(product's scale a group, hash of the logits of all tokens)."""
    with open_gguf(path) as file:
        graph = build_graph(file)
        plan = make_plan(
            graph,
            backends.find(backend),
            max_tokens=64,
            max_outputs=64,
            weight_layout=weight_layout,
            ffn_sparsity=sparse,
        )
        assert backend != "cpu" or any(r.layout == "i2_s" for r in plan.residents) == (sparse == "on")
        sequences = token_sequences(graph.config.vocab_size, (70, 3))
        with Executor(plan, file, n_threads=threads, kv_blocks=4) as executor:
            logits = sha256(forward(executor, sequences, 7 if sparse == "off" else 1, None))
    return sum(int(node.attrs["group"]) for node in graph.nodes if node.op == "linear"), logits


@pytest.mark.parametrize("layout", ["tq1_0", "tq2_0"])
def test_equal_scales_give_the_bits_of_one_scale(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf", CONFIG)
    expected = run(repacked(tiny, tmp_path / "one.gguf", "i2_s"), "reference")
    path = repacked(tiny, tmp_path / "m.gguf", layout)
    assert run(path, "reference") == expected
    assert expected[0] == 0
    for isa in isas():
        monkeypatch.setenv("TRITIUM_ISA", isa)
        assert run(path, "cpu", sparse="on") == expected
        assert run(path, "cpu", threads=3, weight_layout="1.6bit") == expected
