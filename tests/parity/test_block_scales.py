"""Models whose file has a scale a block: of one value they run as one of a scale a tensor does, else by groups, everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from forwarding import forward, sha256, token_sequences
from tiny_models import MATRICES, repacked, write_tiny
from tiny_models import WHOLE_BLOCKS as CONFIG
from tritium import backends
from tritium.backends.cpu import isas
from tritium.errors import UnsupportedError
from tritium.executor import Executor
from tritium.formats.gguf import open_gguf
from tritium.models import build_graph
from tritium.plan import make_plan


def run(
    path: Path, backend: str, *, threads: int = 1, chunk: int = 7, weight_layout: str = "auto", sparse: str = "off"
) -> tuple[int, str]:
    """(products with a scale a group, hash of the logits of all tokens)."""
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
            logits = sha256(forward(executor, sequences, chunk, None))
    return sum(node.attrs["group"] == 256 for node in graph.nodes if node.op == "linear"), logits


@pytest.mark.parametrize("layout", ["tq1_0", "tq2_0"])
def test_equal_scales_give_the_bits_of_one_scale(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf", CONFIG)
    expected = run(repacked(tiny, tmp_path / "one.gguf", "i2_s"), "reference")
    path = repacked(tiny, tmp_path / "m.gguf", layout)
    assert run(path, "reference") == expected
    assert expected[0] == 0
    for isa in isas():
        monkeypatch.setenv("TRITIUM_ISA", isa)
        assert run(path, "cpu", chunk=1, sparse="on") == expected
        assert run(path, "cpu", threads=3, weight_layout="1.6bit") == expected


@pytest.mark.parametrize(
    ("layout", "differ", "expected"),
    [
        ("tq1_0", MATRICES, "26b0342e9407dfc46dd7810f0c041e5f78564d36f3749ca3a63fd9a35afc922d"),
        ("tq2_0", MATRICES, "26b0342e9407dfc46dd7810f0c041e5f78564d36f3749ca3a63fd9a35afc922d"),
        # Neighbors that cannot be stacked, and a gate without its up.
        (
            "tq2_0",
            ("attn_k", "attn_output", "ffn_up"),
            "3f67a1efb75b52c78f1fbecc15b34d31237f0796bd43edd80a66230defd95738",
        ),
    ],
)
def test_scales_that_differ_give_the_bits_of_the_reference(
    layout: str, differ: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf", CONFIG)
    path = repacked(tiny, tmp_path / "m.gguf", layout, differ)
    golden = CONFIG.n_layers * len(differ), expected
    assert run(path, "reference") == golden
    for isa in isas():
        monkeypatch.setenv("TRITIUM_ISA", isa)
        assert run(path, "cpu", chunk=1) == golden
        assert run(path, "cpu", threads=3) == golden
        assert run(path, "cpu", threads=2, chunk=64) == golden


def test_what_has_a_scale_a_group_is_dense_and_of_2_bits(tmp_path: Path) -> None:
    tiny = write_tiny(tmp_path / "tiny.gguf", CONFIG)
    path = repacked(tiny, tmp_path / "m.gguf", "tq2_0", ("ffn_up", "ffn_down"))
    with pytest.raises(UnsupportedError, match="no zeros to leave out"):
        run(path, "cpu", sparse="on")
    with pytest.raises(UnsupportedError, match="a scale a group: expected 2 bits"):
        run(path, "cpu", weight_layout="1.6bit")
