"""How far two sets of numbers are apart: logits, int8 codes, and values of one op. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium.bench.perplexity import divergence
from tritium.errors import NumericsError, ShapeError
from tritium.numerics import F32, F64, top_k

PASSAGE = (
    "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n"
    "Rough winds do shake the darling buds of May,\nAnd summer's lease hath all too short a date;\n"
    "Sometime too hot the eye of heaven shines,\nAnd often is his gold complexion dimm'd;\n"
    "And every fair from fair sometime declines,\nBy chance or nature's changing course untrimm'd;\n"
)
"""What is compared on if no text is given: Shakespeare, Sonnet 18."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first token whose most probable successor differs.

    ``margin``: our logit of our choice less our logit of theirs; ``their_margin`` the reverse, in their logits; ``max_abs``: the
    largest difference of a logit there. A margin below the difference is a near tie.
    """

    position: int
    ours: int
    theirs: int
    margin: float
    their_margin: float
    max_abs: float


@dataclass(frozen=True, slots=True)
class LogitAgreement:
    """Two models' logits after each token, compared. All arrays (T,).

    ``kl``: KL(theirs ‖ ours) in nats; ``top_k``: the part of their k best that is among our k best; ``same_top``: argmax equal.
    """

    k: int
    cosine: F64
    max_abs: F64
    mse: F64
    kl: F64
    top_k: F64
    same_top: NDArray[np.bool_]
    first_divergence: Divergence | None


def compare_logits(ours: F32, theirs: F32, k: int = 5) -> LogitAgreement:
    """Compare logits (T, V) f32. Errors: ShapeError for different shapes; NumericsError if theirs are not finite."""
    if ours.shape != theirs.shape:
        raise ShapeError("logits of a peer", expected=ours.shape, got=theirs.shape)
    if not np.isfinite(theirs).all():
        bad = np.isfinite(theirs).all(axis=1).argmin()
        raise NumericsError("the peer's logits are not finite", where=f"token {bad}")
    k = min(k, ours.shape[1])
    difference = ours.astype(np.float64) - theirs
    our_best, their_best = top_k(ours, k)[0], top_k(theirs, k)[0]
    shared = (our_best[:, :, None] == their_best[:, None, :]).any(axis=2).mean(axis=1)
    same = our_best[:, 0] == their_best[:, 0]
    max_abs = np.abs(difference).max(axis=1)
    first = None
    if not same.all():
        t = int(same.argmin())
        one, two = int(our_best[t, 0]), int(their_best[t, 0])
        margins = float(ours[t, one] - ours[t, two]), float(theirs[t, two] - theirs[t, one])
        first = Divergence(t, one, two, *margins, float(max_abs[t]))
    return LogitAgreement(
        k=k,
        cosine=cosine(ours, theirs),
        max_abs=max_abs,
        mse=(difference**2).mean(axis=1),
        kl=divergence(theirs, ours),
        top_k=shared,
        same_top=same,
        first_divergence=first,
    )


def cosine(a: F32, b: F32) -> F64:
    """Cosine of each pair of rows, in float64; 1 where both are 0. Shapes: (T, K) each → (T,) f64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    both_zero = ~(x.any(axis=1) | y.any(axis=1))
    result: F64 = np.where(both_zero, 1.0, (x * y).sum(axis=1) / np.where(norms == 0, 1, norms))
    return result


def relative(ours: NDArray[Any], theirs: NDArray[Any]) -> F64:
    """max|ours − theirs| / max|theirs| of each row; 0/0 is 0, and what is infinite the largest float64.

    Shapes: (T, K) each → (T,) f64.
    """
    if ours.shape != theirs.shape:
        raise ShapeError("values of a peer", expected=ours.shape, got=theirs.shape)
    gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(axis=1)
    size = np.abs(theirs.astype(np.float64)).max(axis=1)
    with np.errstate(over="ignore"):
        ratio = gap / np.where(size == 0, np.finfo(np.float64).tiny, size)
    result: F64 = np.minimum(ratio, np.finfo(np.float64).max)
    return result


@dataclass(frozen=True, slots=True)
class Moves:
    """Integer codes that differ: by one, by more; ``n_tokens`` of the rows hold any."""

    by_one: int
    by_more: int
    n_tokens: int


def moves(ours: NDArray[Any], theirs: NDArray[Any]) -> Moves:
    """Count codes that moved. Shapes: (T, K) integers each."""
    gap = np.abs(ours.astype(np.int32) - theirs.astype(np.int32))
    return Moves(int((gap == 1).sum()), int((gap > 1).sum()), int(gap.any(axis=1).sum()))
