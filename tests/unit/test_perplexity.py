"""Log-probabilities, windows, and what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_models import write_tiny
from tritium.bench import perplexity as p
from tritium.engine.model import load
from tritium.errors import ShapeError
from tritium.numerics import F32


def test_exp64_is_within_an_ulp_of_the_exact_value() -> None:
    x = np.concatenate([-np.geomspace(1e-18, 745, 4000), -np.arange(0, 700, 0.6931471805599453), [0.0]])
    with localcontext() as context:
        context.prec = 40
        exact = [Decimal(float(v)).exp() for v in x]
        for value, result in zip(exact, p.exp64(x), strict=True):
            assert abs(Decimal(float(result)) - value) <= Decimal(math.ulp(float(value)))
    assert p.exp64(np.array([0.0, -746.0, -1e300])).tolist() == [1.0, 0.0, 0.0]


def test_log_softmax_agrees_with_decimal_arithmetic() -> None:
    logits = np.random.default_rng(3).normal(0, 6, (5, 37)).astype(np.float32)
    logits[1] = logits[1, 0]
    logits[2, 3] = 300
    ours = p.log_softmax(logits)
    with localcontext() as context:
        context.prec = 40
        for row, got in zip(logits, ours, strict=True):
            values = [Decimal(float(v)) for v in row]
            total = sum(v.exp() for v in values).ln()
            assert max(abs(float(v - total) - g) for v, g in zip(values, got, strict=True)) < 2e-13
    targets = np.array([0, 5, 3, 36, 8], np.int32)
    assert p.surprise(logits, targets).tolist() == (-ours[np.arange(5), targets]).tolist()


def test_divergence_is_zero_only_between_equals() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 3, (4, 19)).astype(np.float32)
    b = a.copy()
    b[2] += rng.normal(0, 1, 19).astype(np.float32)
    kl = p.divergence(a, b)
    assert kl[[0, 1, 3]].tolist() == [0, 0, 0]
    log_a, log_b = (v - np.log(np.exp(v.astype(np.float64)).sum()) for v in (a[2], b[2]))
    assert kl[2] == pytest.approx(float((np.exp(log_a) * (log_a - log_b)).sum()), rel=1e-12)
    # The order of operations is the same whatever the number of rows at a time.
    wide = rng.normal(0, 3, (40, 100_003)).astype(np.float32)
    assert p.divergence(wide, wide[::-1])[7] == p.divergence(wide[7:8], wide[-8:-7])[0]


@given(st.integers(2, 300), st.integers(2, 64), st.data())
def test_windows_score_every_token_once_in_the_first_that_can(n: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    cut = p.windows(n, context, stride)
    scored = [token for w in cut for token in range(w.first, w.end)]
    missing = set(range(0, n, stride)) if stride == context else {0}
    assert scored == [token for token in range(n) if token not in missing]
    for w in cut:
        assert w.begin % stride == 0
        assert w.begin < w.first < w.end <= min(w.begin + context, n)
        assert w.first - w.begin >= context - stride or w.begin == 0 or stride == context


@pytest.mark.parametrize(("n", "context", "stride"), [(1, 8, 4), (9, 1, 1), (9, 8, 0), (9, 8, 9)])
def test_windows_refuse_sizes_out_of_range(n: int, context: int, stride: int) -> None:
    with pytest.raises(ShapeError):
        p.windows(n, context, stride)


class Bigram:
    """A model whose next token depends on the last one only: every window must give the same figures."""

    def __init__(self, seed: int) -> None:
        self.table = np.random.default_rng(seed).normal(0, 2, (11, 11)).astype(np.float32)

    def logits(self, ids: Sequence[int]) -> F32:
        rows: F32 = self.table[list(ids)]
        return rows


TEXT = p.Text(tuple(int(i) for i in np.random.default_rng(1).integers(0, 11, 200)), (0, *[2] * 199))


@pytest.mark.parametrize(("context", "stride"), [(200, 100), (64, 32), (7, 1), (50, 49)])
def test_perplexity_of_a_bigram_model_does_not_depend_on_the_windows(context: int, stride: int) -> None:
    model = Bigram(0)
    result = p.perplexity(model, TEXT, context=context, stride=stride)
    logits = model.table.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    nats = [-log_p[a, b] for a, b in zip(TEXT.ids, TEXT.ids[1:], strict=False)]
    assert result.n_tokens == 199
    assert result.nats.value == pytest.approx(np.mean(nats), rel=1e-12)
    assert result.nats.error == pytest.approx(np.std(nats, ddof=1) / math.sqrt(199), rel=1e-12)
    assert result.perplexity.value == pytest.approx(math.exp(np.mean(nats)), rel=1e-12)
    assert result.perplexity.error == pytest.approx(result.perplexity.value * (result.nats.error or 0), rel=1e-12)
    assert result.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / 398, rel=1e-12)


def test_compare_counts_what_differs() -> None:
    a, b = Bigram(0), Bigram(0)
    same = p.compare(a, b, TEXT, context=64, stride=32)
    assert same.identical
    assert (same.flips, same.max_abs, same.kl.value, same.kl_max, same.delta.value) == (0, 0, 0, 0, 0)
    row = TEXT.ids[20]
    b.table[row, (int(b.table[row].argmax()) + 1) % 11] += 50
    other = p.compare(a, b, TEXT, context=64, stride=32)
    assert not other.identical
    assert other.flips == sum(token == row for token in TEXT.ids[:-1])
    assert other.max_abs == 50
    assert other.kl_max > 1
    assert other.delta.value == pytest.approx(other.b.nats.value - other.a.nats.value, rel=1e-9)


def test_a_single_token_has_no_standard_error() -> None:
    result = p.perplexity(Bigram(0), p.Text((1, 2), (0, 0)), context=8, stride=4)
    assert result.nats.error is None
    assert result.perplexity.error is None
    assert result.bits_per_byte is None


def test_the_bytes_of_a_text_are_those_of_its_scored_tokens(tmp_path: Path) -> None:
    text = "the cat in the tin — naïve"
    with load(write_tiny(tmp_path / "m.gguf", "relu2_mha_tied"), backend="reference") as model:
        cut = p.cut_text(model.tokenizer, text)
        assert cut.ids == tuple(model.tokenize(text))
        assert cut.n_bytes[0] == 0
        assert sum(cut.n_bytes) == len(text.encode())
        assert p.cut_text(model.tokenizer, text, 5).ids == cut.ids[:5]
        result = p.perplexity(model, cut, context=16, stride=8)
    assert result.n_bytes == len(text.encode())
    assert result.n_tokens == len(cut.ids) - 1
    assert 100 < result.perplexity.value < 1000
