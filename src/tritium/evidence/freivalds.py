"""Check integer matrix products without computing them: Freivalds' algorithm modulo a prime.

For a claimed Z = Q·Wᵀ and secret vectors r, (Z·r) mod p is compared with (Q·(Wᵀ·r)) mod p. A false Z passes one vector with
probability 1/p, two with p⁻² < 2⁻⁶¹; r is drawn after Z is fixed. A shift of Z by multiples of p would pass, so its range is
checked first: |z| ≤ 128·K, far below p. Source: Freivalds 1977.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRIME = (1 << 31) - 1
N_VECTORS = 2
_ROWS = 2048

Accumulators = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Probe:
    """Secret vectors r (2, N) and their products with a matrix, (2, K), modulo the prime."""

    r: NDArray[np.int64]
    product: NDArray[np.int64]
    bound: int


def make_probe(trits: NDArray[np.int8]) -> Probe:
    """A probe of a matrix. Shapes: trits (N, K) i8.

    Bounds: sums of N numbers below 2³¹ are exact in float64 for N < 2²².
    """
    n, k = trits.shape
    raw = np.frombuffer(secrets.token_bytes(8 * N_VECTORS * n), np.uint64).reshape(N_VECTORS, n)
    r = (raw % PRIME).astype(np.int64)
    product = np.zeros((N_VECTORS, k), np.int64)
    for start in range(0, n, _ROWS):
        part = r[:, start : start + _ROWS].astype(np.float64) @ trits[start : start + _ROWS].astype(np.float64)
        product = (product + part.astype(np.int64)) % PRIME
    return Probe(r, product, 128 * k)


def is_product(probe: Probe, q: NDArray[Any], z: Accumulators) -> bool:
    """True if z is in range and agrees with q·Wᵀ for both vectors.

    Shapes: q (T, K) i8, z (T, N) i32. Bounds: 2³¹·2⁷·K < 2⁶³ for K < 2²⁵; products with z are reduced one by one.
    """
    wide = z.astype(np.int64)
    if np.abs(wide).max(initial=0) > probe.bound:
        return False
    for r, product in zip(probe.r, probe.product, strict=True):
        left = ((wide * r) % PRIME).sum(axis=1) % PRIME
        right = (q.astype(np.int64) * product).sum(axis=1) % PRIME
        if not np.array_equal(left, right):
            return False
    return True


def accumulate(q: NDArray[Any], trits: NDArray[np.int8]) -> Accumulators:
    """q·Wᵀ, exact: every partial sum is an integer below 2²⁴ in float32, or below 2⁵³ in float64.

    Shapes: q (T, K) i8, trits (N, K) i8 → (T, N) i32.
    """
    kind = np.float32 if 128 * q.shape[1] < 1 << 24 else np.float64
    out = np.empty((len(q), len(trits)), np.int32)
    for start in range(0, len(trits), _ROWS):
        part = trits[start : start + _ROWS]
        out[:, start : start + _ROWS] = q.astype(kind) @ part.T.astype(kind)
    return out
