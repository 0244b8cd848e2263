"""Agreement with llama.cpp on the same ternary weights, once its known differences are computed here.

Needs the ``crossval-llama`` extra, which compiles for about ten minutes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forwarding import token_sequences
from tiny_models import TINY, write_tiny
from tritium.bench.crossval import Report, cross_validate
from tritium.bench.peers import open_peer
from tritium.engine.model import load
from tritium.errors import UnsupportedError
from tritium.formats.gguf import open_gguf

pytest.importorskip("llama_cpp", reason="the crossval-llama extra is not installed")

WIDE = "llama_mha_untied_q6_k"
CASES = [("demo", "tq2_0"), ("demo", "tq1_0"), (WIDE, "tq2_0"), (WIDE, "tq1_0")] + [
    (name, "f16") for name in TINY if TINY[name].tied or not TINY[name].sub_norms
]


def validate(name: str, variant: str, tmp_path: Path, n: int = 64) -> Report:
    path = "demo" if name == "demo" else write_tiny(tmp_path / "m.gguf", name)
    with load(path, backend="reference") as model, open_gguf(model.path) as file:
        ids = token_sequences(model.config.vocab_size, (n,))[0].tolist()
        peer = open_peer("llama-cpp", model.graph, file, variant=variant)
        try:
            return cross_validate(model.logits(ids), model.graph, file, peer, ids)
        finally:
            peer.close()


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_known_differences_explain_the_gap(name: str, variant: str, tmp_path: Path) -> None:
    report = validate(name, variant, tmp_path)
    cosines = [rung.cosine for rung in report.ladder]
    print(f"{name} {variant}: " + ", ".join(f"{rung.name or 'ours'} {rung.cosine:.7f}" for rung in report.ladder))
    assert report.same_bits
    assert len(report.ops) == 3 + (16 if name == "demo" or TINY[name].sub_norms else 14) * len(report.layers)
    assert max(op.explained for op in report.ops) <= 1e-5
    assert all(layer.clean is None or layer.clean <= 1e-5 for layer in report.layers)
    assert any(layer.clean is not None for layer in report.layers)
    assert cosines[-1] > 1 - 2e-5
    names = [rung.name for rung in report.ladder]
    is_silu = "activation" not in names
    assert is_silu == (name != "demo" and TINY[name].architecture in ("llama", "bitnet"))
    if not is_silu:
        # The gate explains most of it, and is said to fail.
        assert names[1] == "activation"
        assert cosines[0] < 0.99 < cosines[1]
        assert len(report.failures) == 1
        assert report.failures[0].startswith("cosine of the logits")
    else:
        assert report.failures == ()
    median_before, median_after = report.ladder[0].layer, report.ladder[-1].layer
    assert median_before is not None
    assert median_after is not None
    assert median_after < 1e-5 < 1e-3 < median_before


def test_tq1_0_and_tq2_0_hold_the_same_weights(tmp_path: Path) -> None:
    one, two = (validate(WIDE, variant, tmp_path, 16) for variant in ("tq1_0", "tq2_0"))
    assert np.abs(one.logits.cosine - two.logits.cosine).max() < 1e-12


def test_rows_that_do_not_fill_blocks_are_refused(tmp_path: Path) -> None:
    with open_gguf(write_tiny(tmp_path / "m.gguf", "relu2_mha_tied")) as file:
        from tritium.models import build_graph

        graph = build_graph(file)
        with pytest.raises(UnsupportedError, match=r"TQ2_0 holds rows of 256s: .*--variant f16"):
            open_peer("llama-cpp", graph, file)


def test_an_untied_bitnet_is_refused(tmp_path: Path) -> None:
    with open_gguf(write_tiny(tmp_path / "m.gguf", "relu2_gqa_untied_bf16")) as file:
        from tritium.models import build_graph

        graph = build_graph(file)
        with pytest.raises(UnsupportedError, match="output head tied"):
            open_peer("llama-cpp", graph, file, variant="f16")
