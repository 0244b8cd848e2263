"""Cross-validation against peers that are this program's own walk under other rules: what differs is known exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from forwarding import forward, token_sequences
from tiny_models import TINY, write_tiny
from tritium import backends, numerics
from tritium.bench.agreement import compare_logits, cosine, moves, relative
from tritium.bench.crossval import Report, Tolerance, cross_validate
from tritium.bench.peers import Capture, Difference, open_peer
from tritium.bench.walk import PROFILE, Variation, Walk, attend_all, quantize_blocks
from tritium.errors import NumericsError, ShapeError, UnsupportedError
from tritium.executor import Executor
from tritium.formats.gguf import GGUFFile, open_gguf
from tritium.ir import Graph, Node
from tritium.models import build_graph
from tritium.numerics import F32
from tritium.plan import make_plan


class OtherRules:
    """A peer that computes by a variation of the profile, of which it declares all or less."""

    name = "other rules"
    version = "1"
    is_float32 = True

    def __init__(self, graph: Graph, file: GGUFFile, rules: Variation, declared: tuple[Difference, ...]) -> None:
        self.settings: Mapping[str, str] = {}
        self._walk, self._rules, self._declared = Walk(graph, file), rules, declared

    def run(self, ids: NDArray[np.int32], *, capture: bool) -> Capture:
        values = self._walk.forward(ids, self._rules)
        return Capture(values["logits"], values if capture else {}, self._declared)

    def in_float32(self, ids: NDArray[np.int32]) -> F32 | None:
        return None

    def close(self) -> None:
        pass


SILU = Difference("activation", "SiLU", Variation(activation="silu"))
CACHE = Difference("cache", "float32", Variation(cache="f32"))


def validate(path: Path, rules: Variation, declared: tuple[Difference, ...], n: int = 24, **options: float) -> Report:
    with open_gguf(path) as file:
        graph = build_graph(file)
        ids = token_sequences(graph.config.vocab_size, (n,))[0]
        ours = Walk(graph, file).forward(ids)["logits"]
        peer = OtherRules(graph, file, rules, declared)
        return cross_validate(ours, graph, file, peer, ids.tolist(), tolerance=Tolerance(**options))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "m.gguf", "relu2_mha_tied")


@pytest.mark.parametrize("name", list(TINY))
def test_a_walk_has_the_bits_of_the_reference_back_end(name: str, tmp_path: Path) -> None:
    with open_gguf(write_tiny(tmp_path / "m.gguf", name)) as file:
        graph = build_graph(file)
        ids = token_sequences(graph.config.vocab_size, (17,))
        plan = make_plan(graph, backends.find("reference"), max_tokens=64, max_outputs=64)
        with Executor(plan, file, kv_blocks=1) as executor:
            expected = forward(executor, ids, None)[0]
        assert Walk(graph, file).forward(ids[0])["logits"].tobytes() == expected.tobytes()


def test_attention_of_all_tokens_has_the_bits_of_attention_of_one() -> None:
    rng = np.random.default_rng(0)
    n = 2 * numerics.ATTENTION_SPLIT + 9
    q, k, v = (rng.normal(0, 2, shape).astype(np.float32) for shape in ((n, 3, 8), (n, 8), (n, 8)))
    keys, values = k.astype(np.float16), v.astype(np.float16)
    everything = attend_all(q, keys.astype(np.float32), values.astype(np.float32))
    for t in (0, 1, 15, 16, 254, 255, 256, 257, 511, 512, n - 1):
        assert everything[t].tobytes() == numerics.attend(q[t], keys[: t + 1], values[: t + 1]).tobytes()


def test_block_scales_restore_what_was_quantized() -> None:
    x = np.random.default_rng(2).normal(0, 3, (4, 768)).astype(np.float32)
    x[1, 256:512] = 0
    q, scale = quantize_blocks(x)
    assert scale.shape == (4, 3)
    restored = q.reshape(4, 3, 256) * scale[:, :, None]
    size = np.abs(x.reshape(4, 3, 256)).max(axis=2, keepdims=True)
    assert (np.abs(restored - x.reshape(4, 3, 256)) <= size / 250).all()
    assert (np.abs(q.reshape(4, 3, 256)).max(axis=2) == 127).sum() == 11
    with pytest.raises(ShapeError, match="multiple of 256"):
        quantize_blocks(x[:, :100])


def test_a_peer_of_equal_rules_agrees_bit_for_bit(tiny: Path) -> None:
    report = validate(tiny, PROFILE, ())
    assert report.failures == ()
    assert report.same_bits
    assert report.logits.max_abs.max() == 0
    assert report.logits.first_divergence is None
    assert {op.error for op in report.ops} == {0.0}
    assert len(report.ops) == 1 + 9 + 14 + 2 + 2 + 2 + 4 + 1
    assert [(layer.n_clean, layer.clean) for layer in report.layers] == [(24, 0.0), (24, 0.0)]
    assert all(count.end_to_end.n_tokens == 0 for count in report.codes)
    assert report.delta is not None
    assert report.delta.value == 0


def test_a_declared_difference_explains_the_gap_but_does_not_excuse_it(tiny: Path) -> None:
    rules = SILU.variation | CACHE.variation
    report = validate(tiny, rules, (SILU, CACHE))
    first, with_silu, with_cache, with_codes = report.ladder
    assert first.cosine < 0.99 < 0.999 < with_silu.cosine < 1
    assert with_cache.max_abs == with_codes.max_abs == 0
    assert max(op.explained for op in report.ops) == 0
    gates = {op.value: op.error for op in report.ops if op.op == "relu2_mul"}
    assert set(gates) == {"0.ffn", "1.ffn"}
    assert min(gates.values()) > 0.1
    assert [failure.split(" is")[0] for failure in report.failures] == ["cosine of the logits"]
    assert report.logits.first_divergence is not None


def test_an_undeclared_difference_fails_the_op_that_has_it(tiny: Path) -> None:
    report = validate(tiny, SILU.variation, (), cosine=-1.0)
    (ops,) = report.failures
    assert ops.startswith("2 ops differ by more than 1e-05 on the peer's inputs, most ")
    assert ".ffn:" in ops
    # Behind the gate every token has codes that moved, so that whole layers show nothing.
    assert [(layer.n_clean, layer.clean) for layer in report.layers] == [(0, None), (0, None)]


def test_an_undeclared_difference_that_moves_no_code_fails_the_layer(tiny: Path) -> None:
    class LateError(OtherRules):
        def run(self, ids: NDArray[np.int32], *, capture: bool) -> Capture:
            made = super().run(ids, capture=capture)
            made.values["0.x.2"] = made.values["0.x.2"] * np.float32(1.0001)
            return made

    with open_gguf(tiny) as file:
        graph = build_graph(file)
        ids = token_sequences(graph.config.vocab_size, (24,))[0]
        ours = Walk(graph, file).forward(ids)["logits"]
        report = cross_validate(ours, graph, file, LateError(graph, file, PROFILE, ()), ids.tolist())
    # The sum itself, and the next one, which starts from it; and the layers to either side.
    assert [failure.split(",")[0] for failure in report.failures] == [
        "2 ops differ by more than 1e-05 on the peer's inputs",
        "2 layers differ by more than 1e-05 without a moved code",
    ]


def test_an_inverse_that_is_rounded_once_more_moves_few_codes(tiny: Path) -> None:
    x = np.random.default_rng(5).normal(0, 1, (4096, 512)).astype(np.float32)
    node = Node("quantize", ("x",), ("q", "scale"), (), {"act_bits": 8})
    with open_gguf(tiny) as file:
        walk = Walk(build_graph(file), file)
        one, two = (walk.run([node], {"x": x}, rule) for rule in (PROFILE, Variation(scaling="reciprocal")))
    count = moves(one["q"], two["q"])
    assert 0 < count.by_one < 1e-4 * x.size
    assert count.by_more == 0
    assert one["scale"].tobytes() == two["scale"].tobytes()


def test_block_scales_are_explained(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.gguf", "llama_mha_untied_q6_k")
    blocks = Difference("activations", "blocks", Variation(scaling="block"))
    report = validate(path, blocks.variation, (blocks,))
    assert max(op.explained for op in report.ops if op.op == "linear") == 0
    assert report.ladder[1].max_abs == 0


def test_logits_are_compared_token_by_token() -> None:
    ours = np.array([[1, 2, 3, 0], [4, 1, 0, 0], [1, 1, 1, 1]], np.float32)
    theirs = np.array([[1, 2, 3, 0], [3, 3.5, 0, 0], [2, 2, 2, 2]], np.float32)
    a = compare_logits(ours, theirs, k=2)
    assert a.cosine[0] == 1
    assert a.cosine[2] == 1
    assert a.cosine[1] == pytest.approx(15.5 / np.sqrt(17 * 21.25))
    assert a.max_abs.tolist() == [0, 2.5, 1]
    assert a.mse.tolist() == [0, (1 + 6.25) / 4, 1]
    assert a.same_top.tolist() == [True, False, True]
    assert a.top_k.tolist() == [1, 1, 1]
    assert a.kl[0] == a.kl[2] == 0 < a.kl[1]
    first = a.first_divergence
    assert first is not None
    assert (first.position, first.ours, first.theirs) == (1, 0, 1)
    assert (first.margin, first.their_margin, first.max_abs) == (3, 0.5, 2.5)


def test_logits_that_are_not_finite_are_refused() -> None:
    ours = np.zeros((2, 3), np.float32)
    theirs = ours.copy()
    theirs[1, 2] = np.nan
    with pytest.raises(NumericsError, match="not finite: token 1"):
        compare_logits(ours, theirs)
    with pytest.raises(ShapeError):
        compare_logits(ours, theirs[:1])


def test_moves_and_relative_errors() -> None:
    a = np.array([[1, -128, 5], [0, 0, 0]], np.int8)
    b = np.array([[2, 127, 5], [0, 0, 0]], np.int8)
    count = moves(a, b)
    assert (count.by_one, count.by_more, count.n_tokens) == (1, 1, 1)
    x = np.array([[1, 2], [0, 0], [0, 1]], np.float32)
    y = np.array([[1, 4], [0, 0], [0, 0]], np.float32)
    assert relative(x, y)[:2].tolist() == [0.5, 0]
    assert 1e300 < relative(x * 1000, y)[2] < np.inf
    assert cosine(x, y)[1] == 1


def test_a_peer_that_is_not_there_is_named_with_its_extra(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)
    monkeypatch.delitem(__import__("sys").modules, "tritium.bench.peer_llama_cpp", raising=False)
    with open_gguf(tiny) as file:
        graph = build_graph(file)
        with pytest.raises(UnsupportedError, match=r"pip install 'tritium\[crossval-llama\]'"):
            open_peer("llama-cpp", graph, file)
