"""Head planes and the bounds that screen draws from them, written in NumPy from csrc/kernel.h and csrc/generic/screen.h."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def above(x: F64) -> F32:
    """A float32 not below x."""
    return (x * (1 + 2.0**-20)).astype(np.float32) + np.float32(2.0**-149)


def plane(values: F32) -> NDArray[np.uint8]:
    """Rows (vocab, K) as a plane44 resident. Any codes do, so these are not the native packing's: they reach all weights."""
    rows, cols = values.shape
    exact = values.astype(np.float64)
    fine = (np.abs(values).max(axis=1) / np.float32(255)).astype(np.float32)
    scale = np.float32(16) * fine
    safe = np.where(fine > 0, 2 * fine, np.float32(1)).astype(np.float64)
    codes = np.clip(np.floor(exact / safe[:, None]) + 128, 0, 255).astype(np.int64)
    coarse = scale.astype(np.float64)[:, None] * (2 * (codes >> 4) - 15)
    rounded = fine.astype(np.float64)[:, None] * (2 * codes - 255)
    coarse_residual = above(np.sqrt(((exact - coarse) ** 2).sum(axis=1)))
    residual = above(np.sqrt(((exact - rounded) ** 2).sum(axis=1)))
    norm = above(np.sqrt(np.maximum.reduce([(x**2).sum(axis=1) for x in (exact, coarse, rounded)])))
    n_panels = -(-rows // 16)
    padded = np.zeros((16 * n_panels, -(-cols // 128) * 128), np.uint8)
    padded[:rows, :cols] = codes
    high = (padded >> 4)[:, : -(-cols // 8) * 8].reshape(n_panels, 16, -1, 2, 4)
    blocks = (high[:, :, :, 0] | high[:, :, :, 1] << 4).transpose(0, 2, 1, 3).reshape(n_panels, -1)
    low = (padded & 15).reshape(n_panels, 16, -1, 2, 64)
    low_rows = (low[:, :, :, 0] | low[:, :, :, 1] << 4).reshape(n_panels, -1)

    def floats(*columns: F32) -> F32:
        out = np.zeros((16 * n_panels, len(columns)), np.float32)
        out[:rows] = np.stack(columns, axis=1)
        return out.reshape(n_panels, 16, -1)

    coarse_tail = np.ascontiguousarray(floats(scale, coarse_residual, norm).transpose(0, 2, 1)).reshape(n_panels, -1)
    fine_tail = np.ascontiguousarray(floats(fine, residual, norm, np.zeros_like(norm))).reshape(n_panels, -1)
    end = np.zeros(16, np.float32)
    end[0] = norm.max()
    return np.concatenate([
        np.concatenate([blocks, coarse_tail.view(np.uint8)], axis=1).reshape(-1),
        end.view(np.uint8),
        np.concatenate([low_rows, fine_tail.view(np.uint8)], axis=1).reshape(-1),
    ])  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """A plane44 resident taken apart: odd integers (rows, cols) and (scale, residual, norm) (rows,) of each approximation.

    Row v is near scale·high, and nearer scale·high + fine_scale·low.
    """

    high: NDArray[np.int64]
    low: NDArray[np.int64]
    scale: F32
    coarse_residual: F32
    fine_scale: F32
    residual: F32
    norm: F32
    greatest_norm: np.float32


def parts(data: NDArray[np.uint8], rows: int, cols: int) -> Parts:
    n_panels, high_blocks, low_blocks = -(-rows // 16), -(-cols // 8), -(-cols // 128)
    begin = n_panels * (64 * high_blocks + 192)
    panels = data[:begin].reshape(n_panels, -1)
    both = panels[:, : 64 * high_blocks].reshape(n_panels, high_blocks, 16, 4).transpose(0, 2, 1, 3)
    high = np.stack([both & 15, both >> 4], axis=3).reshape(16 * n_panels, -1)[:rows, :cols]
    coarse = np.ascontiguousarray(panels[:, 64 * high_blocks :]).view(np.float32).reshape(n_panels, 3, 16)
    scale, coarse_residual, norm = (coarse[:, i].reshape(-1)[:rows] for i in range(3))
    panels = data[begin + 64 :].reshape(n_panels, -1)
    both = panels[:, : 16 * 64 * low_blocks].reshape(16 * n_panels, low_blocks, 64)
    low = np.stack([both & 15, both >> 4], axis=2).reshape(16 * n_panels, -1)[:rows, :cols]
    fine = np.ascontiguousarray(panels[:, 16 * 64 * low_blocks :]).view(np.float32).reshape(-1, 4)[:rows]
    assert (fine[:, 2] == norm).all()
    greatest = data[begin : begin + 4].view(np.float32)[0]
    codes = (2 * half.astype(np.int64) - 15 for half in (high, low))
    return Parts(*codes, scale, coarse_residual, fine[:, 0], fine[:, 1], norm, greatest)


def square(x: F64) -> np.float64:
    """‖x‖² as kernels form it: sums of every eighth element, one after the other, then a tree of them."""
    padded = np.zeros(-(-x.size // 8) * 8)
    padded[: x.size] = x**2
    lanes = np.add.accumulate(padded.reshape(-1, 8))[-1]
    while lanes.size > 1:
        lanes = lanes[::2] + lanes[1::2]
    return np.float64(lanes[0])


def bounds(hidden: F32, data: NDArray[np.uint8], rows: int, top_k: int = 1) -> tuple[F32, F32, F32]:
    """Estimates, upper bounds and refined upper bounds (n, rows) of the logits, with the bits of every kernel.

    Three hidden states or more, of which only the best token is wanted, share the plane: of each that they leave small an error,
    they take the high halves alone.
    """
    k = hidden.shape[1]
    p = parts(data, rows, k)
    score = np.zeros((len(hidden), rows), np.float32)
    upper, refined = np.full((2, *score.shape), np.inf, np.float32)
    for i, h in enumerate(hidden):
        greatest = np.abs(h).max()
        if not np.isfinite(h).all() or greatest < np.float32(2.0**-100):
            continue
        unit, inverse = greatest / np.float32(32512), np.float32(32512) / greatest
        whole = np.rint(h * inverse).astype(np.int64)
        high = (whole + 127 + 255 * 128) // 255 - 128
        low = whole - 255 * high
        exact = h.astype(np.float64)
        norm_square = square(exact)
        error_square = square(exact - np.float64(unit) * (255 * high))
        if len(hidden) >= 3 and top_k <= 1 and error_square <= norm_square / 4096:
            low = np.zeros_like(low)
        else:
            error_square = square(exact - np.float64(unit) * whole)
        norm, error = np.sqrt(norm_square), np.sqrt(error_square)
        m = np.float64(-(-k // 16) + 4) * 2.0**-24
        gamma = m / (1 - m)
        size = np.float64(unit) * (255 * np.sqrt(np.float64((high**2).sum())) + np.sqrt(np.float64((low**2).sum())))
        if not ((norm + error + size) * np.float64(p.greatest_norm) < 2.0**120 and norm + error + size < 2.0**105):
            continue
        residual_factor = above(norm)
        norm_factor = above(error + gamma * norm + 2.0**-19 * size) + np.float32(2.0**-147)
        constant = np.float32(k + 16) * np.float32(2.0**-149)

        def product(codes: NDArray[np.int64], scale: F32, unit=unit, high=high, low=low) -> F32:  # type: ignore[no-untyped-def]
            total = np.float32(255) * (codes @ high).astype(np.float32) + (codes @ low).astype(np.float32)
            out: F32 = (unit * total) * scale
            return out

        score[i] = product(p.high, p.scale)
        upper[i] = score[i] + ((residual_factor * p.coarse_residual + norm_factor * p.norm) + constant)
        better = score[i] + product(p.low, p.fine_scale)
        refined[i] = better + ((residual_factor * p.residual + norm_factor * p.norm) + constant)
    return score, upper, refined
