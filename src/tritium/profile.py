"""The numeric profile as one hash: known answers of every function of tritium.numerics on fixed inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tritium import numerics
from tritium.numerics import F32

PROFILE_HASH = "c2439b5b9e2da13d9010fe50a8d2ed069831a980b52033db7457e5b2c83dcab2"


def known_answers() -> Iterator[tuple[str, bytes]]:
    """(name, bytes of the result) of each function, inputs drawn from Philox; the order is part of the profile."""
    x = _floats(1, (3, 100), 6)
    wide = _floats(2, (2, 700), 3)
    yield "lane_sum", numerics.lane_sum(wide).tobytes()
    yield "exp", numerics.exp(_floats(3, (4096,), 7)).tobytes()
    for bits in (8, 16):
        q, scale = numerics.quantize_activations(x, bits)
        yield f"quantize_activations {bits}", q.tobytes() + scale.tobytes()
    yield "rmsnorm", numerics.rmsnorm(x, _floats(4, (100,), 1), 1e-5).tobytes()
    q, scale = numerics.quantize_activations(wide)
    trits = (_words(5, 5 * 700) % np.uint32(3)).astype(np.int8).reshape(5, 700) - np.int8(1)
    yield "ternary_linear", numerics.ternary_linear(q, scale, trits, np.array(0.7, np.float32)).tobytes()
    scales = np.abs(_floats(6, (5, 6), 1))
    yield "ternary_linear 128", numerics.ternary_linear(q, scale, trits, scales, 128).tobytes()
    yield "relu2_mul", numerics.relu2_mul(x, x[::-1]).tobytes()
    yield "silu_mul", numerics.silu_mul(x, x[::-1]).tobytes()
    cos, sin = numerics.rope_tables(300, 20, 500_000.0)
    yield "rope_tables", cos.tobytes() + sin.tobytes()
    heads = _floats(7, (300, 3, 20), 2)
    for style in ("half", "interleaved"):
        yield f"apply_rope {style}", numerics.apply_rope(heads, cos, sin, style).tobytes()
    keys, values = numerics.to_f16(heads[:, 0]), numerics.to_f16(heads[:, 1])
    yield "to_f16", keys.tobytes() + values.tobytes()
    yield "attend", numerics.attend(heads[7], keys, values).tobytes()
    logits = numerics.project_logits(x[:2], _floats(8, (40, 100), 1))
    yield "project_logits", logits.tobytes()
    ids, best = numerics.top_k(logits, 5)
    yield "top_k", ids.tobytes() + best.tobytes()
    yield "uniform", np.array([numerics.uniform(42, s, p) for s in range(4) for p in range(64)]).tobytes()


def profile_hash() -> str:
    """SHA-256 over name and result of every known answer, little-endian; equals PROFILE_HASH where NumPy keeps the profile."""
    digest = hashlib.sha256(numerics.PROFILE.encode())
    for name, result in known_answers():
        digest.update(f"\n{name} {len(result)}\n".encode())
        digest.update(result)
    return digest.hexdigest()


def _words(sequence: int, n: int) -> NDArray[np.uint32]:
    words = [word for i in range(-(-n // 4)) for word in numerics.philox(1, sequence, i)]
    return np.array(words[:n], np.uint32)


def _floats(sequence: int, shape: tuple[int, ...], octaves: int) -> F32:
    """Signed numbers of random mantissa, of magnitude 2^−octaves to 2^octaves."""
    n = int(np.prod(shape))
    words = _words(sequence, n)
    exponents = (127 - octaves + (words >> np.uint32(23) & np.uint32(0xFF)) % np.uint32(2 * octaves)).astype(np.uint32)
    bits = (words & np.uint32(0x807FFFFF)) | (exponents << np.uint32(23))
    return bits.view(np.float32).reshape(shape)
