"""The numeric profile ``tritium-canon-1``: the float islands between exact integer products, defined in NumPy.

Everything here is built from IEEE-754 add, subtract, multiply, divide, square root and round-half-even on float32 (float64 for
tables), in a written order. No libm, no BLAS on inexact floats, no pairwise sums, no contraction. The native kernels reproduce
each function bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium.errors import NumericsError, ShapeError

PROFILE = "tritium-canon-1"

LANES = 16
"""Lanes of every float32 sum: one 512-bit register, two of 256 bits, four of 128 bits."""

KV_BLOCK = 64
"""Positions in one block of the key-value cache."""

ATTENTION_SPLIT = 256
"""Keys in one split of the attention sum; a multiple of KV_BLOCK. Part of the profile, unlike KV_BLOCK."""

MIN_ABSMAX = np.float32(1e-5)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def lane_sum(x: F32) -> F32:
    """Sum the last axis in 16 lanes and a fixed tree.

    acc[l] = ((0 + x[l]) + x[16 + l]) + x[32 + l] + …, the tail padded with +0; then
    acc[l] += acc[l + 8] for l < 8, acc[l] += acc[l + 4] for l < 4, acc[l] += acc[l + 2] for l < 2, result acc[0] + acc[1].

    Shapes: x (…, K) f32 → (…) f32.
    """
    k = x.shape[-1]
    pad = -k % LANES
    if pad:
        x = np.concatenate([x, np.zeros((*x.shape[:-1], pad), np.float32)], axis=-1)
    acc = np.zeros((*x.shape[:-1], LANES), np.float32)
    for start in range(0, k + pad, LANES):
        acc = acc + x[..., start : start + LANES]
    for half in (8, 4, 2, 1):
        acc = acc[..., :half] + acc[..., half : 2 * half]
    total: F32 = acc[..., 0]
    return total


LOG2E = np.float32(1.4426950408889634)
LN2_HI = np.float32(0.693359375)
LN2_LO = np.float32(-0.00021219444005469057)
ROUND_MAGIC = np.float32(12582912.0)
EXP_MIN = np.float32(-87.0)
EXP_MAX = np.float32(88.0)
EXP_COEFFICIENTS = tuple(np.float32(c) for c in (0.0013926213, 0.008363203, 0.041666556, 0.16666576, 0.5))


def exp(x: F32) -> F32:
    """e^x in float32 within 2 ulp for −87 ≤ x ≤ 88; 0 below, e^88 above.

    n = (x·log2 e + 1.5·2²³) − 1.5·2²³;  r = (x − n·LN2_HI) − n·LN2_LO;  p = Horner(r) of degree 4;
    e^x = (((p·(r·r)) + r) + 1)·2ⁿ, each operation rounded to float32. The coefficients are a Chebyshev fit of (e^r − 1 − r)/r².
    """
    clamped = np.minimum(np.maximum(x, EXP_MIN), EXP_MAX)
    n = (clamped * LOG2E + ROUND_MAGIC) - ROUND_MAGIC
    r = (clamped - n * LN2_HI) - n * LN2_LO
    p = np.full_like(r, EXP_COEFFICIENTS[0])
    for c in EXP_COEFFICIENTS[1:]:
        p = p * r + c
    mantissa = ((p * (r * r)) + r) + np.float32(1)
    power = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return np.where(x < EXP_MIN, np.float32(0), mantissa * power).astype(np.float32)


def quantize_activations(x: F32, bits: int = 8) -> tuple[NDArray[Any], F32]:
    """Quantize activations to signed integers, one scale per token.

    q = clip(round_half_even(x · (m / a)), −m − 1, m),  a = max(max_k |x|, 1e-5),  scale = a / m,  m = 2^(bits−1) − 1

    Shapes: x (T, K) f32 → q (T, K) i8 (i16 for bits > 8), scale (T,) f32, with x ≈ scale[:, None]·q.
    Errors: ShapeError if x is not 2-D; NumericsError if x holds NaN or Inf.
    Source: BitNet b1.58 2B4T technical report, section 2.
    """
    if x.ndim != 2:
        raise ShapeError("activations must be 2-D", expected="(T, K)", got=x.shape)
    if not np.isfinite(x).all():
        row = int(np.argmin(np.isfinite(x).all(axis=1)))
        raise NumericsError("activations are not finite", where=f"token {row}")
    m = np.float32(2 ** (bits - 1) - 1)
    absmax = np.maximum(np.max(np.abs(x), axis=1), MIN_ABSMAX)
    inv_scale = m / absmax
    q = np.clip(np.rint(x * inv_scale[:, None]), -m - np.float32(1), m)
    return q.astype(np.int8 if bits <= 8 else np.int16), absmax / m


def rmsnorm(x: F32, gamma: F32, eps: float) -> F32:
    """Root-mean-square normalization.

    y = (x · (1 / sqrt(lane_sum(x·x) / K + eps))) · gamma

    Shapes: x (T, K) f32, gamma (K,) f32 → y (T, K) f32. Source: Zhang and Sennrich 2019.
    """
    mean = lane_sum(x * x) / np.float32(x.shape[-1])
    inv = np.float32(1) / np.sqrt(mean + np.float32(eps))
    y: F32 = (x * inv[:, None]) * gamma
    return y


def ternary_linear(q: NDArray[Any], scale_x: F32, trits: NDArray[np.int8], scale_w: F32, group: int = 0) -> F32:
    """Multiply quantized activations by ternary weights, integer sums exact.

    One scale per tensor (group = 0): y = f32(Σ_k q·trit) · (scale_x · scale_w).
    One scale per ``group`` weights of a row: y = Σ_g f32(Σ_{k in g} q·trit) · (scale_x · scale_w[n, g]), summed from +0 in the
    order of g in float32.

    Shapes: q (T, K) i8 or i16, scale_x (T,) f32, trits (N, K) i8, scale_w () or (N, ceil(K/group)) f32 → y (T, N) f32.
    Bounds: |Σ| ≤ 128·K < 2³¹ for int8 and K < 2²⁴. The sums are formed by matrix multiplication in floating point, which is
    exact in any order where every partial sum is an integer that the type holds: below 2²⁴ in float32, else in float64.
    """
    k = q.shape[1] if group == 0 else group
    kind = np.float32 if q.dtype == np.int8 and 128 * k < 1 << 24 else np.float64
    if group == 0:
        acc = (q.astype(kind) @ trits.T.astype(kind)).astype(np.float32)
        y: F32 = acc * (scale_x * np.float32(scale_w))[:, None]
        return y
    y = np.zeros((q.shape[0], trits.shape[0]), np.float32)
    for g, start in enumerate(range(0, q.shape[1], group)):
        part = q[:, start : start + group].astype(kind) @ trits[:, start : start + group].T.astype(kind)
        y = y + part.astype(np.float32) * (scale_x[:, None] * scale_w[None, :, g])
    return y


def relu2_mul(gate: F32, up: F32) -> F32:
    """(r·r)·up with r = gate where gate > 0, else +0. Shapes: (T, K) f32 each."""
    r = np.where(gate > 0, gate, np.float32(0))
    y: F32 = (r * r) * up
    return y


def silu_mul(gate: F32, up: F32) -> F32:
    """(gate / (1 + exp(−gate))) · up. Shapes: (T, K) f32 each."""
    y: F32 = (gate / (np.float32(1) + exp(-gate))) * up
    return y


def to_f16(x: F32) -> NDArray[np.float16]:
    """Round to float16, half to even. NumericsError when a value overflows or is not finite."""
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise NumericsError("a key or value does not fit float16", expected="|x| < 65520", got=float(np.abs(x).max()))
    return half


def apply_rope(x: F32, cos: F32, sin: F32, style: str) -> F32:
    """Rotate pairs of a head's features by the angle of their position.

    y0 = x0·cos − x1·sin,  y1 = x1·cos + x0·sin; "half" pairs (i, i + d/2), "interleaved" pairs (2i, 2i + 1).

    Shapes: x (T, heads, d) f32, cos and sin (T, d/2) f32 → (T, heads, d) f32. Source: Su et al. 2021.
    """
    half = x.shape[-1] // 2
    first, second = (slice(0, half), slice(half, None)) if style == "half" else (slice(0, None, 2), slice(1, None, 2))
    x0, x1 = x[..., first], x[..., second]
    c, s = cos[:, None, :], sin[:, None, :]
    y = np.empty_like(x)
    y[..., first] = x0 * c - x1 * s
    y[..., second] = x1 * c + x0 * s
    return y


def attend(
    q: F32, keys: NDArray[Any], values: NDArray[Any], key_scales: F32 | None = None, value_scales: F32 | None = None
) -> F32:
    """Causal attention of one token over its sequence's cache, for query heads that share one key-value head.

    s_j = (Σ_i q_i·k_ji)·(1/sqrt(d)), summed over i = 0, 1, … from +0. The keys are cut into splits of 256 by position. In a split
    m = max s_j, p_j = exp(s_j − m), l = lane_sum(p), o = Σ_j p_j·v_j summed over j from +0. The first split sets (M, L, O); each
    following one, in order, updates M' = max(M, m), a = exp(M − M'), b = exp(m − M'), L = a·L + b·l, O = a·O + b·o.
    The result is O / L.

    A cache of int8 holds ``quantize_activations`` of each key and value. There s_j = (Σ_i q_i·k_ji)·(scale_j·(1/sqrt(d))) and
    o = Σ_j (p_j·scale_j)·v_j, codes k and v taken as float32.

    Shapes: q (heads, d) f32, keys and values (kv_len, d) f16, or i8 with scales (kv_len,) f32 → (heads, d) f32.
    Source: online softmax, Milakov and Gimelshein 2018; splits depend on the length only.
    """
    heads, d = q.shape
    inv_sqrt = np.float32(1) / np.sqrt(np.float32(d))
    run_max = run_sum = out = None
    for start in range(0, keys.shape[0], ATTENTION_SPLIT):
        k = keys[start : start + ATTENTION_SPLIT].astype(np.float32)
        v = values[start : start + ATTENTION_SPLIT].astype(np.float32)
        s = np.zeros((heads, k.shape[0]), np.float32)
        for i in range(d):
            s = s + q[:, i : i + 1] * k[None, :, i]
        split = slice(start, start + ATTENTION_SPLIT)
        s = s * (inv_sqrt if key_scales is None else key_scales[split] * inv_sqrt)
        m = s.max(axis=1)
        p = exp(s - m[:, None])
        total = lane_sum(p)
        if value_scales is not None:
            p = p * value_scales[split]
        o = np.zeros((heads, d), np.float32)
        for j in range(k.shape[0]):
            o = o + p[:, j : j + 1] * v[j]
        if run_max is None or run_sum is None or out is None:
            run_max, run_sum, out = m, total, o
            continue
        new_max = np.maximum(run_max, m)
        a, b = exp(run_max - new_max), exp(m - new_max)
        run_sum = a * run_sum + b * total
        out = a[:, None] * out + b[:, None] * o
        run_max = new_max
    if out is None or run_sum is None:
        raise ShapeError("attention over an empty cache")
    y: F32 = out / run_sum[:, None]
    return y


def project_logits(hidden: F32, rows: F32) -> F32:
    """Logits of some vocabulary rows: lane_sum(hidden·row). Shapes: hidden (n, K) f32, rows (V, K) f32 → (n, V) f32."""
    return np.stack([lane_sum(h * rows) for h in hidden]) if len(hidden) else np.zeros((0, len(rows)), np.float32)


def top_k(logits: F32, k: int) -> tuple[NDArray[np.int32], F32]:
    """The k largest logits of each row, by descending value, ties by ascending id. Shapes: (n, V) → (n, k), (n, k).

    −0 and +0 tie.
    """
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    return order.astype(np.int32), np.take_along_axis(logits, order, axis=-1)


_LN2 = 0.6931471805599453
_TWO_OVER_PI = 0.6366197723675814
_PIO2 = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
_SIN_TERMS = tuple((-1.0) ** n / float(np.prod(np.arange(1, 2 * n + 2, dtype=object))) for n in range(9, -1, -1))
_COS_TERMS = tuple((-1.0) ** n / float(np.prod(np.arange(1, 2 * n + 1, dtype=object))) for n in range(9, -1, -1))


def log64(x: float) -> float:
    """ln x in float64 by 2·atanh of (m − 1)/(m + 1), m the mantissa in [√½, √2)."""
    mantissa, exponent = np.frexp(x)
    m, e = float(mantissa), int(exponent)
    if m < 0.7071067811865476:
        m, e = m * 2.0, e - 1
    z = (m - 1.0) / (m + 1.0)
    zz, series = z * z, 0.0
    for n in range(27, 0, -2):
        series = series * zz + 1.0 / n
    return e * _LN2 + 2.0 * z * series


def _exp64(x: float) -> float:
    """e^x in float64 by a Taylor series of degree 17 around the nearest multiple of ln 2."""
    n = float(np.rint(x / _LN2))
    r, term, total = x - n * _LN2, 1.0, 1.0
    for i in range(1, 18):
        term = term * r / i
        total = total + term
    return float(np.ldexp(total, int(n)))


def sincos(angle: F64) -> tuple[F32, F32]:
    """sin and cos within 1 ulp of float32 for |angle| ≤ 2²⁰.

    k = rint(angle·2/π);  r = ((angle − k·P0) − k·P1) − k·P2;  Taylor series of degree 19 and 18 in float64, rounded once.
    """
    k = np.rint(angle * _TWO_OVER_PI)
    r = ((angle - k * _PIO2[0]) - k * _PIO2[1]) - k * _PIO2[2]
    rr = r * r
    s, c = np.zeros_like(r), np.zeros_like(r)
    for a, b in zip(_SIN_TERMS, _COS_TERMS, strict=True):
        s, c = s * rr + a, c * rr + b
    s = s * r
    quadrant = k.astype(np.int64) & 3
    sin = np.choose(quadrant, [s, c, -s, -c])
    cos = np.choose(quadrant, [c, -s, -c, s])
    return sin.astype(np.float32), cos.astype(np.float32)


def rope_tables(n_positions: int, head_dim: int, theta: float, factors: tuple[float, ...] = ()) -> tuple[F32, F32]:
    """cos and sin of pos·theta^(−2i/d), divided by ``factors[i]`` when given.

    Shapes: → cos, sin (n_positions, head_dim/2) f32. Angles are formed in float64.
    """
    log_theta = log64(theta)
    frequencies = np.array([_exp64(-(2.0 * i / head_dim) * log_theta) for i in range(head_dim // 2)])
    if factors:
        frequencies = frequencies / np.array(factors, np.float64)
    sin, cos = sincos(np.arange(n_positions, dtype=np.float64)[:, None] * frequencies[None, :])
    return cos, sin


def philox(seed: int, sequence: int, position: int) -> tuple[int, int, int, int]:
    """Four 32-bit words of Philox4x32-10: key = seed (64 bits), counter = (position, sequence), 64 bits each.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    mask = 0xFFFFFFFF
    c0, c1 = position & mask, (position >> 32) & mask
    c2, c3 = sequence & mask, (sequence >> 32) & mask
    k0, k1 = seed & mask, (seed >> 32) & mask
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def uniform(seed: int, sequence: int, position: int) -> float:
    """A number in [0, 1) with 53 bits, from the first two words of Philox."""
    high, low, _, _ = philox(seed, sequence, position)
    return float(((high >> 5) * 67108864 + (low >> 6)) / 9007199254740992.0)
