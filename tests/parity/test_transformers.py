"""Agreement with Hugging Face transformers on the same ternary weights. Needs the ``crossval`` extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forwarding import token_sequences
from tiny_models import TINY, write_tiny
from tritium.bench.crossval import Report, cross_validate
from tritium.bench.peers import open_peer
from tritium.bench.perplexity import Text, compare, cut_text, surprise
from tritium.engine.model import load
from tritium.formats.gguf import open_gguf

pytest.importorskip("torch", reason="the crossval extra is not installed")
pytest.importorskip("transformers", reason="the crossval extra is not installed")

EVERY_VARIANT = "relu2_gqa_tied_chat"
CASES = [(name, "offline") for name in TINY] + [
    (EVERY_VARIANT, "online"),
    (EVERY_VARIANT, "packed"),
    ("llama_gqa_untied_wide_heads", "packed"),
]


def validate(name: str, variant: str, tmp_path: Path, n: int = 64) -> Report:
    path = write_tiny(tmp_path / "m.gguf", name)
    with load(path, backend="reference") as model, open_gguf(path) as file:
        ids = token_sequences(model.config.vocab_size, (n,))[0].tolist()
        peer = open_peer("transformers", model.graph, file, variant=variant)
        return cross_validate(model.logits(ids), model.graph, file, peer, ids)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_logits_ops_and_layers_agree(name: str, variant: str, tmp_path: Path) -> None:
    report = validate(name, variant, tmp_path)
    logits, graph = report.logits, TINY[name]
    print(f"{name} {variant}: cosine min {logits.cosine.min():.6f} median {np.median(logits.cosine):.8f}, "
          f"ops {max(op.explained for op in report.ops):.1e}, layers {[layer.clean for layer in report.layers]}, "
          f"tokens without a moved code {[layer.n_clean for layer in report.layers]}")  # fmt: skip
    assert report.failures == ()
    assert report.same_bits
    assert logits.cosine.min() >= 0.999
    per_layer = 16 if graph.sub_norms else 14
    assert len(report.ops) == 3 + per_layer * graph.n_layers
    assert len(report.layers) == graph.n_layers
    assert max(op.explained for op in report.ops) <= 1e-5
    # Only the float16 cache is visible in an op; all others agree by our own rules.
    assert {op.op for op in report.ops if op.error > 1e-5} == {"rope_kv"}
    clean = [layer.clean for layer in report.layers if layer.clean is not None]
    assert clean
    assert max(clean) <= 1e-5
    n_codes = sum(count.n_codes for count in report.codes)
    assert sum(count.injected.by_one for count in report.codes) <= 1e-4 * n_codes
    assert sum(count.injected.by_more for count in report.codes) == 0
    # With the peer's codes and its float32 cache nothing is left but the order of sums.
    assert report.ladder[-1].name == "codes"
    assert report.ladder[-1].cosine > 1 - 1e-9


def test_bfloat16_is_told_apart_from_us(tmp_path: Path) -> None:
    report = validate(EVERY_VARIANT, "packed-bf16", tmp_path)
    assert report.rounding is not None
    assert report.to_float32 is not None
    # The peer is further from its own float32 than we are.
    assert np.median(report.to_float32.cosine) > np.median(report.rounding.cosine)
    # BitLinear quantizes in bfloat16, and moves codes of one and the same input.
    assert sum(count.injected.by_one for count in report.codes) > 0.01 * sum(count.n_codes for count in report.codes)
    # No verdict on ops and layers: only the logits may fail.
    assert all(failure.startswith("cosine of the logits") for failure in report.failures)
    assert report.ladder[-1].cosine > report.ladder[0].cosine


def test_perplexity_of_the_embedded_model_is_theirs(tmp_path: Path) -> None:
    text = (
        "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\nFirst Citizen:\n"
        "You are all resolved rather to die than to famish?\n\nAll:\nResolved. resolved.\n\nFirst Citizen:\n"
        "First, you know Caius Marcius is chief enemy to the people.\n\nAll:\nWe know't, we know't.\n"
    )
    with load("demo", backend="reference") as model, open_gguf(model.path) as file:
        peer = open_peer("transformers", model.graph, file)
        cut = cut_text(model.tokenizer, text)
        windows = compare(model, peer, cut, context=64, stride=32)
        assert windows.delta.error is not None
        print(f"perplexity ours {windows.a.perplexity.value:.5f}, theirs {windows.b.perplexity.value:.5f}, "
              f"{windows.delta.value:+.2e} ± {windows.delta.error:.1e} nats, KL {windows.kl.value:.1e}, "
              f"best token differs at {windows.flips} of {windows.a.n_tokens}")  # fmt: skip
        assert abs(windows.delta.value) <= 4 * windows.delta.error
        assert abs(windows.delta.value) < 0.005
        assert windows.kl.value < 1e-3
        whole = compare(model, peer, Text(cut.ids[:100], cut.n_bytes[:100]), context=100, stride=100)
        # Their loss is the same mean, formed in float32.
        assert peer.mean_nats(cut.ids[:100]) == pytest.approx(whole.b.nats.value, rel=1e-5)
        targets = np.array(cut.ids[1:100], np.int32)
        assert surprise(peer.logits(cut.ids[:99]), targets).mean() == pytest.approx(whole.b.nats.value, rel=1e-5)
