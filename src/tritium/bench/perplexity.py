"""Perplexity of a text, and how far two models or settings are apart on it.

Log-probabilities are float64 from float32 logits by ``log_softmax``, which needs no libm: a figure is the same on every machine
whose logits are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tritium.engine.tokenizer import Tokenizer
from tritium.errors import ShapeError
from tritium.numerics import F32, F64, log64

_LOG2E = 1.4426950408889634
_LN2_HI = 0.6931471803691238  # 33 bits, so that n · LN2_HI is exact
_LN2_LO = 1.9082149292705877e-10
_LN2 = 0.6931471805599453
_EXP_TERMS = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))
_CHUNK = 1 << 21


def exp64(x: F64) -> F64:
    """e^x in float64 for x ≤ 0 within 1 ulp, 0 below −745.

    n = rint(x·log2 e);  r = (x − n·LN2_HI) − n·LN2_LO;  Taylor series of degree 13 by Horner's rule;  · 2ⁿ
    """
    n = np.rint(np.maximum(x, -745.0) * _LOG2E)
    r = (np.maximum(x, -745.0) - n * _LN2_HI) - n * _LN2_LO
    p = np.full_like(r, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        p = p * r + term
    y: F64 = np.where(x < -745.0, 0.0, np.ldexp(p, n.astype(np.int32)))
    return y


def tree_sum(x: F64) -> F64:
    """Sum the last axis, padded with 0 to a power of two, by adding halves. Shapes: (…, K) f64 → (…) f64."""
    width = 1 << (x.shape[-1] - 1).bit_length()
    if width != x.shape[-1]:
        x = np.concatenate([x, np.zeros((*x.shape[:-1], width - x.shape[-1]))], axis=-1)
    while width > 1:
        width //= 2
        x = x[..., :width] + x[..., width : 2 * width]
    total: F64 = x[..., 0]
    return total


def log_softmax(logits: F32) -> F64:
    """Natural log-probabilities: (l − m) − ln Σ exp(l − m), m the row's maximum, in float64.

    The sum is ``tree_sum`` of ``exp64``, the logarithm ``numerics.log64``. Shapes: (T, V) f32 → (T, V) f64.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    sums = tree_sum(exp64(shifted))
    y: F64 = shifted - np.array([log64(float(total)) for total in sums])[:, None]
    return y


def row_chunks(logits: F32) -> Iterator[slice]:
    """Slices of rows whose float64 copies stay small."""
    size = max(1, _CHUNK // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, min(start + size, len(logits)))


def surprise(logits: F32, targets: NDArray[np.int32]) -> F64:
    """−ln p of each row's target, in nats. Shapes: logits (T, V) f32, targets (T,) → (T,) f64."""
    out = np.empty(len(logits))
    for part in row_chunks(logits):
        rows = log_softmax(logits[part])
        out[part] = -rows[np.arange(len(rows)), targets[part]]
    return out


def divergence(p_logits: F32, q_logits: F32) -> F64:
    """Kullback–Leibler divergence KL(p ‖ q) of each row, in nats. Shapes: (T, V) f32 each → (T,) f64."""
    out = np.empty(len(p_logits))
    for part in row_chunks(p_logits):
        log_p, log_q = log_softmax(p_logits[part]), log_softmax(q_logits[part])
        out[part] = tree_sum(exp64(log_p) * (log_p - log_q))
    return out


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error s/√n, the values taken as independent; None for fewer than two."""

    value: float
    error: float | None


def mean_of(values: F64) -> Mean:
    """Mean and standard error; sums are exact (Shewchuk's), so order does not matter."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Mean(mean, None)
    return Mean(mean, math.sqrt(math.fsum((values - mean) ** 2) / (n - 1) / n))


class Scorer(Protocol):
    """What a text can be scored with: ``tritium.Model``, or a peer."""

    def logits(self, ids: Sequence[int]) -> F32: ...


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``begin`` to ``end`` are forwarded from an empty cache; those from ``first`` on are scored."""

    begin: int
    end: int
    first: int


def windows(n_tokens: int, context: int, stride: int) -> list[Window]:
    """Windows of ``context`` tokens, ``stride`` apart; each token is scored in the first one that can predict it.

    A token needs one before it: the first of the text is never scored, nor with stride = context is the first of a window.
    Errors: ShapeError for sizes out of range, or a text too short to score.
    """
    if context < 2:
        raise ShapeError("context", expected="at least 2 tokens", got=context)
    if not 1 <= stride <= context:
        raise ShapeError("stride", expected=f"1 to {context}, the context", got=stride)
    if n_tokens < 2:
        raise ShapeError("the text is too short to score", expected="at least 2 tokens", got=n_tokens)
    out: list[Window] = []
    scored = 0
    for begin in range(0, n_tokens, stride):
        end = min(begin + context, n_tokens)
        first = max(scored, begin + 1)
        if first < end:
            out.append(Window(begin, end, first))
        scored = end
        if end == n_tokens:
            break
    return out


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a model predicts a text.

    ``nats``: mean of −ln p a scored token; ``perplexity`` = e^nats, its error by the delta method; ``bits_per_byte``: the scored
    tokens' bits over the bytes that they spell. ``per_token``: (n_tokens,) f64, nats in the order of the text.
    """

    n_tokens: int
    n_bytes: int
    n_windows: int
    context: int
    stride: int
    nats: Mean
    perplexity: Mean
    bits_per_byte: float | None
    per_token: F64


@dataclass(frozen=True, slots=True)
class Text:
    """A text as token ids, with the bytes that each one spells (none for special tokens)."""

    ids: tuple[int, ...]
    n_bytes: tuple[int, ...]


def cut_text(tokenizer: Tokenizer, text: str, limit: int | None = None) -> Text:
    """Cut a text as the model asks for, special tokens added; of more than ``limit`` tokens, the first. Errors: as ``encode``."""
    ids = tokenizer.encode(text)[:limit]
    chunks = tokenizer.chunks(ids, False, strip=True)
    sizes = [0 if tokenizer.is_special(token) else len(chunk) for token, chunk in zip(ids, chunks, strict=True)]
    return Text(tuple(ids), tuple(sizes))


def perplexity(model: Scorer, text: Text, *, context: int, stride: int) -> Perplexity:
    """Score a text in windows. Errors: as ``windows`` and the model's ``logits``."""
    cut = windows(len(text.ids), context, stride)
    parts = [surprise(*_scored(model, text, window)) for window in cut]
    return _summary(np.concatenate(parts), text, cut, context, stride)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models or settings, A and B, on one text.

    ``kl``: KL(A ‖ B) in nats a token. ``flips``: tokens whose most probable successor differs. ``delta``: B's nats less A's,
    paired. ``max_abs``: the largest difference of a logit; ``identical``: True if all logits are the same bits.
    """

    a: Perplexity
    b: Perplexity
    kl: Mean
    kl_max: float
    flips: int
    delta: Mean
    max_abs: float
    identical: bool


def compare(a: Scorer, b: Scorer, text: Text, *, context: int, stride: int) -> Comparison:
    """Score a text with both. Errors: as ``perplexity``; ShapeError for vocabularies of different sizes."""
    cut = windows(len(text.ids), context, stride)
    nats_a, nats_b, kl = [], [], []
    flips, max_abs, identical = 0, 0.0, True
    for window in cut:
        logits_a, targets = _scored(a, text, window)
        logits_b, _ = _scored(b, text, window)
        if logits_a.shape != logits_b.shape:
            raise ShapeError("vocabularies differ in size", expected=logits_a.shape[1], got=logits_b.shape[1])
        nats_a.append(surprise(logits_a, targets))
        nats_b.append(surprise(logits_b, targets))
        kl.append(divergence(logits_a, logits_b))
        flips += int((logits_a.argmax(axis=1) != logits_b.argmax(axis=1)).sum())
        max_abs = max(max_abs, float(np.abs(logits_a - logits_b).max()))
        identical &= logits_a.tobytes() == logits_b.tobytes()
    one, two, divergences = np.concatenate(nats_a), np.concatenate(nats_b), np.concatenate(kl)
    return Comparison(
        a=_summary(one, text, cut, context, stride),
        b=_summary(two, text, cut, context, stride),
        kl=mean_of(divergences),
        kl_max=float(divergences.max()),
        flips=flips,
        delta=mean_of(two - one),
        max_abs=max_abs,
        identical=identical,
    )


def _scored(model: Scorer, text: Text, window: Window) -> tuple[F32, NDArray[np.int32]]:
    """Logits (n, V) of the positions before the scored tokens, and those tokens (n,)."""
    logits = model.logits(text.ids[window.begin : window.end - 1])
    targets = np.array(text.ids[window.first : window.end], np.int32)
    return logits[window.first - 1 - window.begin :], targets


def _summary(nats: F64, text: Text, cut: list[Window], context: int, stride: int) -> Perplexity:
    n_bytes = sum(sum(text.n_bytes[window.first : window.end]) for window in cut)
    mean = mean_of(nats)
    value = 1.0 / float(exp64(np.array([-mean.value]))[0])
    return Perplexity(
        n_tokens=len(nats),
        n_bytes=n_bytes,
        n_windows=len(cut),
        context=context,
        stride=stride,
        nats=mean,
        perplexity=Mean(value, None if mean.error is None else value * mean.error),
        bits_per_byte=math.fsum(nats) / _LN2 / n_bytes if n_bytes else None,
        per_token=nats,
    )
