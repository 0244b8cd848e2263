"""Head planes and the bounds that screen draws from them, written in NumPy from csrc/kernel.h and csrc/generic/screen.h."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def above(x: F64) -> F32:
    """A float32 not below x."""
    return (x * (1 + 2.0**-20)).astype(np.float32) + np.float32(2.0**-149)


def plane(values: F32) -> NDArray[np.uint8]:
    """Rows (vocab, K) as a plane8 resident. Any codes do, so these are not those of the native packing: they round down."""
    rows, cols = values.shape
    exact = values.astype(np.float64)
    scale = (np.abs(values).max(axis=1) / np.float32(127)).astype(np.float32)
    safe = np.where(scale > 0, scale, np.float32(1)).astype(np.float64)
    codes = np.clip(np.floor(exact / safe[:, None]), -127, 127)
    rounded = scale.astype(np.float64)[:, None] * codes
    residual = above(np.sqrt(((exact - rounded) ** 2).sum(axis=1)))
    norm = above(np.sqrt(np.maximum((exact**2).sum(axis=1), (rounded**2).sum(axis=1))))
    n_panels, n_blocks = -(-rows // 16), -(-cols // 4)
    padded = np.full((16 * n_panels, 4 * n_blocks), 128, np.uint8)
    padded[:rows, :cols] = (codes + 128).astype(np.uint8)
    blocks = padded.reshape(n_panels, 16, n_blocks, 4).transpose(0, 2, 1, 3).reshape(n_panels, -1)
    tails = np.zeros((n_panels, 3, 16), np.float32)
    for i, column in enumerate((scale, residual, norm)):
        flat = np.zeros(16 * n_panels, np.float32)
        flat[:rows] = column
        tails[:, i] = flat.reshape(n_panels, 16)
    panels = np.concatenate([blocks, tails.reshape(n_panels, -1).view(np.uint8)], axis=1)
    end = np.zeros(16, np.float32)
    end[0] = norm.max()
    return np.concatenate([panels.reshape(-1), end.view(np.uint8)])


def parts(data: NDArray[np.uint8], rows: int, cols: int) -> tuple[NDArray[np.int64], F32, F32, F32, np.float32]:
    """Codes (rows, cols), scale, residual, norm (rows,) and the greatest norm of a plane8 resident."""
    n_panels, n_blocks = -(-rows // 16), -(-cols // 4)
    panels = data[:-64].reshape(n_panels, 64 * n_blocks + 192)
    codes = panels[:, : 64 * n_blocks].reshape(n_panels, n_blocks, 16, 4).transpose(0, 2, 1, 3)
    tails = np.ascontiguousarray(panels[:, 64 * n_blocks :]).view(np.float32).reshape(n_panels, 3, 16)
    scale, residual, norm = (tails[:, i].reshape(-1)[:rows] for i in range(3))
    flat = codes.reshape(16 * n_panels, -1)[:rows, :cols].astype(np.int64) - 128
    return flat, scale, residual, norm, data[-64:].view(np.float32)[0]


def bounds(hidden: F32, data: NDArray[np.uint8], rows: int) -> tuple[F32, F32]:
    """Lower and upper bounds (n, rows) of the logits, with the bits of every kernel; whole panels are meant."""
    k = hidden.shape[1]
    codes, scale, residual, norm, greatest_norm = parts(data, rows, k)
    lower, upper = np.full((len(hidden), rows), -np.inf, np.float32), np.full((len(hidden), rows), np.inf, np.float32)
    for i, h in enumerate(hidden):
        greatest = np.abs(h).max()
        if not np.isfinite(h).all() or greatest < np.float32(2.0**-100):
            continue
        unit, inverse = greatest / np.float32(32512), np.float32(32512) / greatest
        whole = np.rint(h * inverse).astype(np.int64)
        high = (whole + 127 + 255 * 128) // 255 - 128
        low = whole - 255 * high
        exact = h.astype(np.float64)
        error = np.sqrt(np.add.accumulate((exact - np.float64(unit) * whole) ** 2)[-1])
        length = np.sqrt(np.add.accumulate(exact**2)[-1])
        m = np.float64(-(-k // 16) + 4) * 2.0**-24
        gamma = m / (1 - m)
        size = np.float64(unit) * (255 * np.sqrt(np.float64((high**2).sum())) + np.sqrt(np.float64((low**2).sum())))
        if not ((length + error + size) * np.float64(greatest_norm) < 2.0**120 and length + error + size < 2.0**105):
            continue
        residual_factor = above(length + error)
        norm_factor = above(error + gamma * length + 2.0**-20 * size) + np.float32(2.0**-148)
        constant = np.float32(k + 16) * np.float32(2.0**-149)
        total = np.float32(255) * (codes @ high).astype(np.float32) + (codes @ low).astype(np.float32)
        score = (unit * total) * scale
        bound = (residual_factor * residual + norm_factor * norm) + constant
        lower[i], upper[i] = score - bound, score + bound
    return lower, upper
