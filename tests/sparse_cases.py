"""Calls of the sparse linears: every share of work left out, and what must not be left out."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kernel_cases import F32, LINEAR_KINDS, Case, Weight
from tritium import numerics
from tritium.layouts import LAYOUTS

SHARES = (0.0, 0.2, 0.5, 1.0)
"""Of what has to be computed."""
EDGES = np.array([-0.0, 0.0, 1e-45, -1e-45, np.nan, np.inf, -np.inf, 3e38, -3e38], np.float32)
"""Gates: only 1e-45, Inf and 3e38 are open."""


def columns(trits: NDArray[np.int8], scale: float) -> Weight:
    """Trits (rows, cols) as i2s_columns, written from the layout's description in kernel.h."""
    rows, cols = trits.shape
    n_blocks = -(-rows // 256)
    codes = np.ones((256 * n_blocks, cols), np.uint8)
    codes[:rows] = trits + 1
    # row = 64·j + 16·v + 4·l + i stands in byte 16·l + 4·v + i, bits 2j.
    by_pair = codes.T.reshape(cols, n_blocks, 4, 4, 4, 4).transpose(0, 1, 4, 3, 5, 2)
    packed = np.bitwise_or.reduce(by_pair << np.array([0, 2, 4, 6], np.uint8), axis=-1).reshape(-1)
    tail = np.zeros(16, np.float32)
    tail[0] = scale
    return Weight("i2s_columns", rows, cols, np.concatenate([packed, tail.view(np.uint8)]))


def rows_of_file(trits: NDArray[np.int8], scale: float) -> Weight:
    """Trits (rows, cols) as the file's i2_s tensor."""
    data = LAYOUTS["i2_s"].pack_trits(trits, np.array([scale], np.float32))
    return Weight("i2_s", *trits.shape, np.frombuffer(data, np.uint8).copy())


def _case(
    label: str, q: NDArray[np.int8], scale_x: F32, trits: NDArray[np.int8], scale_w: float, weight: Weight, active: int,
    unit: int, nbytes: int, gate: F32 | None = None, initial: F32 | None = None,
) -> Case:  # fmt: skip
    (n, k), t = trits.shape, len(q)
    y = np.zeros((t, -(-n // 16) * 16), np.float32)
    with np.errstate(all="ignore"):
        y[:, :n] = numerics.ternary_linear(q, scale_x[:, 0], trits, np.float32(scale_w))
    if gate is not None:
        y[:, :n][~(gate > 0)] = 0
    inputs: tuple[NDArray[np.generic], ...] = (q, scale_x) if gate is None else (q, scale_x, gate)
    attrs = {"k": k, "n": n, "group": 0, "act_bits": 8, "accumulate": int(initial is not None)}
    return Case(
        f"T={t} {label}", t, attrs, inputs, (y if initial is None else initial + y,), (weight,),
        initial=initial, macs=active * unit, skipped=t * n * k - active * unit, nbytes=nbytes,
    )  # fmt: skip


def _rows(many: tuple[int, ...]) -> Iterator[Case]:
    sizes = ((128, 1), (256, 15), (384, 300), (640, 17), (4224, 33), (2560, 64))
    for i, (k, n) in enumerate(sizes):
        for j, (kind, make) in enumerate(LINEAR_KINDS.items()):
            for m, share in enumerate((None, *SHARES)):
                t = many[(i + j + m) % len(many)]
                g = np.random.default_rng(zlib.crc32(repr((k, n, kind, share)).encode()))
                q, trits = make(g, t, k, n)
                gate = None if share is None else (g.random((t, n)) * np.where(g.random((t, n)) < share, 1, -1))
                if gate is not None:
                    gate = gate.astype(np.float32)
                    if n > 20 and share == SHARES[(i + j) % 4]:
                        gate[t // 2, : EDGES.size] = EDGES
                scale_w = float(g.random(1, np.float32)[0])
                active = t * n if gate is None else int((gate > 0).sum())
                yield _case(
                    f"K={k} N={n} {kind} open={share}", q, g.random((t, 1), np.float32), trits, scale_w,
                    rows_of_file(trits, scale_w), active, k, (active if t == 1 else n) * (k // 4) + 4, gate,
                )  # fmt: skip


def _overflowing(t: int) -> Iterator[Case]:
    """Sums that leave float32 are computed behind closed gates too: a zero times infinity is not zero.

    Here no sum is zero: the sign of the NaN that it would make is the machine's.
    """
    k, n = 256, 40
    g = np.random.default_rng(5)
    q, trits = LINEAR_KINDS["random"](g, t, k, n)
    closed, weight = np.full((t, n), -1, np.float32), rows_of_file(trits, 2.0)
    for scale, active in ((3e38, t * n), (float(np.finfo(np.float32).max) / (2 * 128 * k), 0)):
        read = (active if t == 1 else n) * (k // 4) + 4
        case = _case(f"scale {scale:.3g}", q, np.full((t, 1), scale, np.float32), trits, 2.0, weight, active, k, read,
                     None if active else closed)  # fmt: skip
        if active:
            case = Case(case.label, t, case.attrs, (*case.inputs, closed), case.expected, case.weights,
                        macs=case.macs, nbytes=case.nbytes)  # fmt: skip
        yield case


def _columns(many: tuple[int, ...]) -> Iterator[Case]:
    sizes = ((1, 1), (2, 16), (15, 17), (64, 255), (100, 256), (257, 257), (640, 600), (4130, 300))
    for i, (k, n) in enumerate(sizes):
        for j, (kind, make) in enumerate(LINEAR_KINDS.items()):
            for m, share in enumerate(SHARES):
                t = many[(i + j + m) % len(many)]
                g = np.random.default_rng(zlib.crc32(repr((k, n, kind, share)).encode()))
                q, trits = make(g, t, k, n)
                q = np.where(g.random((t, k)) < share, q, np.int8(0))
                scale_w = float(g.random(1, np.float32)[0])
                weight, active = columns(trits, scale_w), int(np.count_nonzero(q))
                initial = g.standard_normal((t, -(-n // 16) * 16), np.float32) if (i + j) % 2 else None
                column_bytes = (weight.data.size - 64) // k
                yield _case(
                    f"K={k} N={n} {kind} nonzero={share}{', accumulate' if initial is not None else ''}", q,
                    g.random((t, 1), np.float32), trits, scale_w, weight, active, n,
                    (active if t == 1 else k) * column_bytes + 4, None, initial,
                )  # fmt: skip


MANY = (2, 3, 16, 17, 70)
"""Tokens of one group, which workers share by columns, and of several; more than pass a block of rows together."""


def cases(layout: str) -> Iterator[Case]:
    """Calls for one token and for many on the layout."""
    for many in ((1,), MANY):
        if layout == "i2_s":
            yield from _rows(many)
            yield from _overflowing(many[0])
        else:
            yield from _columns(many)


SPARSE = ("i2_s", "i2s_columns")
