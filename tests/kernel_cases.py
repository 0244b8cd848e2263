"""Calls of every op with what the numeric profile says must come out: swept shapes, adversarial inputs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import screening
from tritium import numerics
from tritium.layouts import LAYOUTS, head_plane_bytes
from tritium.ops import vector_bytes

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

WIDTHS = (1, 2, 15, 16, 17, 31, 63, 64, 65, 100, 255, 256, 257, 640)
BLOCK_WIDTHS = {"q8_0": (32, 64, 96, 256, 640), "q6_k": (256, 512, 768)}
SEQUENCE = 600
"""Positions of the sequences that attention reads: three splits, the last one short."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A resident's bytes in a native layout."""

    layout: str
    rows: int
    cols: int
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values before and after the call, in kernel.h's order: as float16 bits, or the bytes of codes and scales.

    ``shape``: key-value heads, head_dim, positions of a block.
    """

    keys: NDArray[Any]
    values: NDArray[Any]
    keys_after: NDArray[Any]
    values_after: NDArray[Any]
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Case:
    """One call. ``inputs`` and ``expected`` are (rows, width); what stands behind ``width`` in a written row is ``padding``:

    zeros up to the next 64 bytes, or "kept" if the kernel must not write there. ``initial`` is what the first output held.
    """

    label: str
    t: int
    attrs: Mapping[str, float]
    inputs: tuple[NDArray[np.generic], ...]
    expected: tuple[NDArray[np.generic], ...]
    weights: tuple[Weight, ...] = ()
    padding: tuple[str, ...] = ()
    initial: F32 | None = None
    in_place: bool = False
    vocab: int = 16
    tokens: I32 | None = None
    positions: I32 | None = None
    slots: I32 | None = None
    tables: I32 = field(default_factory=lambda: np.zeros((1, 1), np.int32))
    outputs: I32 | None = None
    top_k: int = 0
    temperatures: F32 | None = None
    cache: Cache | None = None
    failure: tuple[str, int] | None = None
    macs: int | None = None
    skipped: int = 0
    nbytes: int | None = None


def _rng(*label: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(label).encode()))


def _normal(rng: np.random.Generator, *shape: int) -> F32:
    return rng.standard_normal(shape, np.float32)


def panels(trits: NDArray[np.int8], scale: float) -> Weight:
    """Trits (rows, cols) as panels, written from the layout's description in kernel.h."""
    rows, cols = trits.shape
    n_panels, n_blocks = -(-rows // 16), -(-cols // 16)
    codes = np.ones((16 * n_panels, 16 * n_blocks), np.uint8)
    codes[:rows, :cols] = trits + 1
    by_byte = codes.reshape(n_panels, 16, n_blocks, 4, 4).transpose(0, 2, 1, 4, 3)
    packed = np.bitwise_or.reduce(by_byte << np.array([0, 2, 4, 6], np.uint8), axis=-1).reshape(-1)
    scales = np.zeros(-(-4 * n_panels // 64) * 16, np.float32)
    scales[:n_panels] = scale
    return Weight("i2s", 16 * n_panels, cols, np.concatenate([packed, scales.view(np.uint8)]))


def trit_panels(trits: NDArray[np.int8], scale: float) -> Weight:
    """Trits (rows, cols) as panels of five digits a byte, written from the layout's description in kernel.h."""
    rows, cols = trits.shape
    n_panels, n_groups = -(-rows // 16), -(-cols // 80)
    digits = np.zeros((16 * n_panels, 80 * n_groups), np.uint8)
    digits[:, :cols] = 1
    digits[:rows, :cols] = trits + 1
    grouped = digits.reshape(n_panels, 16, n_groups, 80)
    lower = grouped[..., :64].reshape(n_panels, 16, n_groups, 4, 4, 4)
    fifth = grouped[..., 64:].reshape(n_panels, 16, n_groups, 4, 1, 4)
    powers = np.array([1, 3, 9, 27, 85], np.uint8)[:, None]
    packed = (np.concatenate([lower, fifth], axis=4) * powers).sum(axis=4, dtype=np.uint8)
    scales = np.zeros(-(-4 * n_panels // 64) * 16, np.float32)
    scales[:n_panels] = scale
    data = np.concatenate([packed.transpose(0, 2, 3, 1, 4).reshape(-1), scales.view(np.uint8)])
    return Weight("tq1", 16 * n_panels, cols, data)


def scaled_panels(trits: NDArray[np.int8], scales: F32) -> Weight:
    """Trits (rows, cols) with scales (rows, cols/256) as i2s_groups, written from the layout's description in kernel.h."""
    rows, cols = trits.shape
    n_panels, n_groups = -(-rows // 16), cols // 256
    codes = panels(trits, 0).data[: n_panels * cols * 4].reshape(n_panels, n_groups, 1024)
    padded = np.zeros((16 * n_panels, n_groups), np.float32)
    padded[:rows] = scales
    ends = np.ascontiguousarray(padded.reshape(n_panels, 16, n_groups).transpose(0, 2, 1)).view(np.uint8)
    return Weight("i2s_groups", 16 * n_panels, cols, np.concatenate([codes, ends], axis=2).reshape(-1))


PANELS: Mapping[str, tuple[Callable[[NDArray[np.int8], float], Weight], int, int]] = {
    "i2s": (panels, 16, 64),
    "tq1": (trit_panels, 80, 256),
}
"""Layout → what makes it; columns and bytes of its unit of a panel."""


def _f32(values: F32) -> Weight:
    return Weight("f32", values.shape[0], values.shape[1], np.ascontiguousarray(values).reshape(-1).view(np.uint8))


LINEAR_KINDS: Mapping[
    str, Callable[[np.random.Generator, int, int, int], tuple[NDArray[np.int8], NDArray[np.int8]]]
] = {
    "random": lambda g, t, k, n: (g.integers(-128, 128, (t, k), np.int8), g.integers(-1, 2, (n, k), np.int8)),
    "all -128, all +1": lambda g, t, k, n: (np.full((t, k), -128, np.int8), np.ones((n, k), np.int8)),
    "all -128, all -1": lambda g, t, k, n: (np.full((t, k), -128, np.int8), np.full((n, k), -1, np.int8)),
    "all 127, all +1": lambda g, t, k, n: (np.full((t, k), 127, np.int8), np.ones((n, k), np.int8)),
    "zeros": lambda g, t, k, n: (np.zeros((t, k), np.int8), g.integers(-1, 2, (n, k), np.int8)),
}

LINEAR_DEPTHS = {
    "i2s": (1, 15, 16, 17, 63, 64, 65, 100, 255, 256, 257, 272, 640, 1040),
    "tq1": (1, 16, 17, 63, 64, 65, 79, 80, 81, 100, 240, 241, 272, 641, 1040),
}

LINEAR_ROWS = (1, 15, 16, 17, 33, 48)
MANY_LINEAR_ROWS = (48, 129, 600)
"""Of many tokens: enough for tables of their sums, and for more than one worker to have such."""


def linear(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    """Every T with depths around the blocks, in turn each kind of operand and each number of rows."""
    if layout == "i2s_groups":
        yield from _linear_groups(ts)
        return
    pack, columns, unit = PANELS[layout]
    for t in ts:
        for i, k in enumerate(LINEAR_DEPTHS[layout] if t < 26 else (80, 272)):
            kinds = tuple(LINEAR_KINDS) if k in (272, 1040) else (tuple(LINEAR_KINDS)[(i + t) % len(LINEAR_KINDS)],)
            for kind in kinds:
                choices = LINEAR_ROWS if t < 24 else MANY_LINEAR_ROWS
                n = choices[(i + t) % len(choices)]
                g = _rng("linear", t, k, n, kind)
                q, trits = LINEAR_KINDS[kind](g, t, k, n)
                scale_x, scale_w = g.random((t, 1), np.float32), g.random(1, np.float32)
                weight = pack(trits, float(scale_w[0]))
                nbytes = weight.rows // 16 * (-(-k // columns) * unit + 4)
                yield _product(g, kind, q, scale_x, trits, scale_w, weight, nbytes, accumulates=bool((i + t) % 2))


def _linear_groups(ts: Sequence[int]) -> Iterator[Case]:
    """As ``linear`` with a scale for each 256 weights of a row, of either sign and of sizes that make the order of sums tell."""
    for t in ts:
        for i, (k, kind) in enumerate((k, kind) for k in (256, 512, 1280) for kind in LINEAR_KINDS):
            if t > 12 and kind != "random":
                continue
            n = LINEAR_ROWS[(i + t) % len(LINEAR_ROWS)]
            g = _rng("linear groups", t, k, n, kind)
            q, trits = LINEAR_KINDS[kind](g, t, k, n)
            scale_x = g.random((t, 1), np.float32)
            scales = (_normal(g, n, k // 256) * g.choice([1, 1000], (n, k // 256))).astype(np.float32)
            weight = scaled_panels(trits, scales)
            yield _product(
                g, kind, q, scale_x, trits, scales, weight, weight.data.size, 256, accumulates=bool((i + t) % 2)
            )


def _product(
    g: np.random.Generator, kind: str, q: NDArray[np.int8], scale_x: F32, trits: NDArray[np.int8], scales: F32, weight: Weight,
    nbytes: int, group: int = 0, *, accumulates: bool,
) -> Case:  # fmt: skip
    """The case of one product of q (t, k) by trits (n, k), added to what is there where it accumulates."""
    (t, k), n = q.shape, len(trits)
    y = np.zeros((t, weight.rows), np.float32)
    y[:, :n] = numerics.ternary_linear(q, scale_x[:, 0], trits, scales if group else scales[0], group)
    initial = _normal(g, *y.shape) if accumulates else None
    return Case(
        f"T={t} K={k} N={n} {kind}{', accumulate' if accumulates else ''}",
        t,
        {"k": k, "n": n, "group": group, "act_bits": 8, "accumulate": int(accumulates)},
        (q, scale_x),
        (y if initial is None else initial + y,),
        (weight,),
        initial=initial,
        macs=t * k * n,
        nbytes=nbytes,
    )


def _activations(g: np.random.Generator, t: int, k: int) -> Iterator[tuple[str, F32]]:
    x = _normal(g, t, k)
    yield "normal", x
    huge = x.copy()
    huge[0, k // 2] = 3e38
    yield "one huge", huge
    yield "denormal", (g.integers(-5, 6, (t, k)) * np.float32(1e-42)).astype(np.float32)
    yield "zeros", np.zeros((t, k), np.float32)
    yield "halves", _halves(g, t, k)
    yield "borders", _borders(g, t, k)


def _halves(g: np.random.Generator, t: int, k: int) -> F32:
    """Multiples of 1/2 up to 127, which is the first: half of them are ties between two codes."""
    x = (g.integers(-254, 255, (t, k)) / np.float32(2)).astype(np.float32)
    x[:, 0] = 127
    return x


def _borders(g: np.random.Generator, t: int, k: int) -> F32:
    """Values next to the borders between codes, where a different order of operations gives the other code."""
    absmax = g.uniform(0.5, 2, (t, 1)).astype(np.float32)
    x = ((g.integers(-127, 127, (t, k)) + 0.5) * absmax.astype(np.float64) / 127).astype(np.float32)
    x[:, :1] = absmax
    return x


def _broken(x: F32) -> Iterator[tuple[str, F32, int]]:
    for name, value in (("NaN", np.nan), ("Inf", np.inf), ("-Inf", -np.inf)):
        bad = x.copy()
        bad[-1, -1] = value
        yield name, bad, len(x) - 1


def rmsnorm(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    for t, k in ((t, k) for t in ts for k in WIDTHS):
        g = _rng("rmsnorm", t, k)
        gamma = _normal(g, 1, k)
        for name, x in _activations(g, t, k):
            if name != "one huge":  # its square is infinite
                y = numerics.rmsnorm(x, gamma[0], 1e-5)
                yield Case(f"T={t} K={k} {name}", t, {"k": k, "eps": 1e-5}, (x,), (y,), (_f32(gamma),), nbytes=4 * k)


def quantize(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    for t, k in ((t, k) for t in ts for k in WIDTHS):
        g = _rng("quantize", t, k)
        for name, x in _activations(g, t, k):
            q, scale = numerics.quantize_activations(x)
            yield _quantized(f"T={t} K={k} {name}", {"k": k, "act_bits": 8}, x, q, scale)
        for name, bad, row in _broken(_normal(g, t, k)):
            yield _refused(f"T={t} K={k} {name}", {"k": k, "act_bits": 8}, bad, row)


def rmsnorm_quantize(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    for t, k in ((t, k) for t in ts for k in WIDTHS):
        g = _rng("rmsnorm_quantize", t, k)
        gamma, attrs = _normal(g, 1, k), {"k": k, "act_bits": 8, "eps": 1e-5}
        for name, x in _activations(g, t, k):
            if name != "one huge":
                q, scale = numerics.quantize_activations(numerics.rmsnorm(x, gamma[0], 1e-5))
                yield _quantized(f"T={t} K={k} {name}", attrs, x, q, scale, (_f32(gamma),))
        # The norm of ±2²⁰ is ±1 exactly, so that the products are the gammas.
        signs = np.where(_normal(g, t, k) < 0, np.float32(-(2.0**20)), np.float32(2.0**20))
        for name, exact in (("halves", _halves(g, 1, k)), ("borders", _borders(g, 1, k))):
            q, scale = numerics.quantize_activations(numerics.rmsnorm(signs, exact[0], 1e-5))
            yield _quantized(f"T={t} K={k} gammas {name}", attrs, signs, q, scale, (_f32(exact),))
        for name, bad, row in _broken(_normal(g, t, k)):
            yield _refused(f"T={t} K={k} {name}", attrs, bad, row, (_f32(gamma),))


def _quantized(
    label: str, attrs: Mapping[str, float], x: F32, q: NDArray[np.generic], scale: F32, weights: tuple[Weight, ...] = ()
) -> Case:
    return Case(label, len(x), attrs, (x,), (q, scale[:, None]), weights, ("zero", "kept"))


def _refused(label: str, attrs: Mapping[str, float], x: F32, row: int, weights: tuple[Weight, ...] = ()) -> Case:
    shapes = (np.zeros(x.shape, np.int8), np.zeros((len(x), 1), np.float32))
    return Case(label, len(x), attrs, (x,), shapes, weights, failure=("not_finite", row))


def _gated(name: str, formula: Callable[[F32, F32], F32]) -> Callable[[str, Sequence[int]], Iterator[Case]]:
    def cases(layout: str, ts: Sequence[int]) -> Iterator[Case]:
        edges = np.array([-0.0, 0.0, -87, -87.01, 88, 89, -200, 200, 1e-40, -1e-40], np.float32)
        for t, k in ((t, k) for t in ts for k in WIDTHS):
            g = _rng(name, t, k)
            gate, up = _normal(g, t, k) * np.float32(30), _normal(g, t, k)
            gate[0, : edges.size] = edges[:k]
            yield Case(f"T={t} K={k}", t, {"k": k}, (gate, up), (formula(gate, up),))

    return cases


def output_rows(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    for t, k in ((t, k) for t in ts for k in WIDTHS):
        g = _rng("output_rows", t, k)
        x = _normal(g, 2 * t + 1, k)
        picked = np.sort(g.permutation(len(x))[:t]).astype(np.int32)
        yield Case(f"T={t} K={k}", t, {"k": k}, (x,), (x[picked],), outputs=picked)


def _table(g: np.random.Generator, layout: str, rows: int, cols: int) -> tuple[Weight, F32]:
    values = _normal(g, rows, cols)
    if layout == "f16":
        values[0, :4] = np.array([6e-8, -3e-5, 65504, -0.0], np.float32)[:cols]
    data = LAYOUTS[layout].pack(values)
    return Weight(layout, rows, cols, data), LAYOUTS[layout].unpack(data, (rows, cols))


def embedding(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    for t, k in ((t, k) for t in ts for k in BLOCK_WIDTHS.get(layout, WIDTHS)):
        g = _rng("embedding", layout, t, k)
        weight, rows = _table(g, layout, 9, k)
        tokens = g.integers(0, 9, t, np.int32)
        tokens[-1] = 8
        nbytes = t * (weight.data.size // 9)
        attrs = {"k": k, "vocab": 9}
        yield Case(f"T={t} K={k}", t, attrs, (), (rows[tokens],), (weight,), vocab=9, tokens=tokens, nbytes=nbytes)


def logits_projection(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    for t, k in ((t, k) for t in ts for k in BLOCK_WIDTHS.get(layout, WIDTHS)):
        for vocab in (1, 3, 16, 17, 37):
            g = _rng("logits", layout, t, k, vocab)
            weight, rows = _table(g, layout, vocab, k)
            h = _normal(g, t, k)
            yield Case(
                f"T={t} K={k} V={vocab}",
                t,
                {"k": k, "vocab": vocab},
                (h,),
                (numerics.project_logits(h, rows),),
                (weight,),
                ("kept",),
                vocab=vocab,
                macs=t * k * vocab,
                nbytes=weight.data.size,
            )


def select(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    kinds: Mapping[str, Callable[[F32], F32]] = {
        "random": lambda x: x,
        "ties": np.round,
        "signed zeros": lambda x: np.where(x > 0, np.float32(0), np.float32(-0.0)),
        "ascending": lambda x: np.sort(x, axis=1),
        "descending": lambda x: -np.sort(x, axis=1),
    }
    for t, vocab in ((t, vocab) for t in ts for vocab in (1, 2, 16, 17, 100, 1500)):
        for name, k in ((name, k) for name in kinds for k in (1, 2, 40, 1000) if k <= vocab):
            logits = kinds[name](_normal(_rng("select", t, vocab, name), t, vocab)).astype(np.float32)
            ids, values = numerics.top_k(logits, k)
            yield Case(
                f"T={t} V={vocab} k={k} {name}", t, {"vocab": vocab}, (logits,), (ids, values), vocab=vocab, top_k=k
            )


def _screened(ts: Sequence[int]) -> Iterator[tuple[str, int, int, int, F32, NDArray[np.uint8]]]:
    """(label, K, vocab, candidates, hidden states, plane): codes of the greatest size, hidden states of one size and of one sign.

    Of hidden states with a feature above all the high halves leave so much that several together need both.
    """
    kinds: Mapping[str, Callable[[F32], F32]] = {
        "normal": lambda h: h,
        "one size": lambda h: np.where(h < 0, np.float32(-2), np.float32(2)),
        "huge": lambda h: h * np.float32(2.0**98),
        "too large, tiny": lambda h: h * np.float32(2.0**125 if len(h) % 2 else 2.0**-120),
        "one sign": lambda h: np.full_like(h, 2),
        "some with one feature above all": lambda h: np.where(np.indices(h.shape).sum(axis=0) % 97 == 0, 200 * h, h),
    }
    for t, k in ((t, k) for t in ts for k in WIDTHS):
        for i, (name, kind) in enumerate(kinds.items()):
            vocab = (1, 16, 17, 37, 48)[(i + k + t) % 5]
            g = _rng("screen", t, k, vocab)
            rows = _normal(g, vocab, k)
            rows[0] = 1
            top_k = 2 if vocab > 1 and (i + t) % 2 else 1
            yield (
                f"T={t} K={k} V={vocab} k={top_k} {name}",
                k,
                vocab,
                top_k,
                kind(_normal(g, t, k)),
                screening.plane(rows),
            )


def screen(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    for label, k, vocab, top_k, h, data in _screened(ts):
        t = len(h)
        score, upper, _ = screening.bounds(h, data, vocab, top_k)
        past = np.full((t, -(-vocab // 16) * 16 - vocab), -np.inf, np.float32)
        n_bounded = int(np.isfinite(upper).all(axis=1).sum())
        yield Case(
            label,
            t,
            {"k": k, "vocab": vocab},
            (h,),
            (np.hstack([score, past]), np.hstack([upper, past])),
            (Weight("plane44", vocab, k, data),),
            vocab=vocab,
            top_k=top_k,
            macs=n_bounded * vocab * k,
            nbytes=head_plane_bytes(vocab, k)[0] if n_bounded else 0,
        )


def refine(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    """Thresholds that leave every row, none, and those above the median."""
    for i, (label, k, vocab, top_k, h, data) in enumerate(_screened(ts)):
        t = len(h)
        score, upper, refined = screening.bounds(h, data, vocab, top_k)
        least = (np.median(upper, axis=1), np.full(t, -np.inf), np.abs(upper).max(axis=1) * 2 + 1)[i % 3].astype(
            np.float32
        )
        left = upper >= least[:, None]
        bounded = np.isfinite(upper).all(axis=1) | ~left.any(axis=1)
        n = int(left[bounded].sum())
        yield Case(
            label,
            t,
            {"k": k, "vocab": vocab},
            (upper, h, score, np.stack([np.full(t, np.nan, np.float32), least], axis=1)),
            (np.where(left, refined, upper),),
            (Weight("plane44", vocab, k, data),),
            in_place=True,
            vocab=vocab,
            top_k=top_k,
            macs=n * k,
            skipped=(int(bounded.sum()) * vocab - n) * k,
            nbytes=n * head_plane_bytes(vocab, k)[1] // (-(-vocab // 16) * 16),
        )


def _equal_rows(op: str, layout: str, ts: Sequence[int]) -> Iterator[tuple[int, int, F32, Weight, F32]]:
    """(vocab, K, hidden states, head, logits), among them equal ones."""
    for t, vocab in ((t, vocab) for t in ts for vocab in (16, 17, 100, 1500)):
        k = {"q8_0": 64, "q6_k": 256}.get(layout, 33)
        g = _rng(op, layout, t, vocab)
        values = _normal(g, vocab, k)
        values[: vocab // 3] = values[-(vocab // 3) :]
        data = LAYOUTS[layout].pack(values)
        h = _normal(g, t, k)
        logits = numerics.project_logits(h, LAYOUTS[layout].unpack(data, (vocab, k)))
        yield vocab, k, h, Weight(layout, vocab, k, data), logits


def threshold(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    """The least logit among those with the greatest estimates, some of them equal; with a temperature, two of other kinds."""
    for vocab, k, h, weight, logits in _equal_rows("threshold", layout, ts):
        t = len(h)
        score = np.round(logits + _normal(_rng("score", t, vocab), t, vocab)).astype(np.float32)
        for top_k, hot in ((top_k, hot) for top_k in (1, 2, 40) for hot in (False, True) if 8 * top_k <= vocab):
            ids, estimates = numerics.top_k(score, top_k)
            temperatures = (
                np.array([(0, 0.5, 2)[r % 3] for r in range(t)], np.float32) if hot else np.zeros(t, np.float32)
            )
            expected, n_read = np.empty((t, 2), np.float32), 0
            for r, temperature in enumerate(temperatures):
                n = min(top_k, 8) if temperature else top_k
                exact = logits[r, ids[r, :n]]
                least = far = exact.min()
                if temperature:
                    least = min(max(estimates[r, -1], exact.max() - np.float32(16) * temperature), exact.max())
                    far = min(exact.max() - np.float32(40) * temperature, least)
                expected[r] = least, far
                n_read += n
            yield Case(
                f"T={t} V={vocab} k={top_k} {'hot' if hot else ''}",
                t,
                {"k": k, "vocab": vocab},
                (h, score),
                (expected,),
                (weight,),
                padding=("kept",),
                vocab=vocab,
                top_k=top_k,
                temperatures=temperatures if hot else None,
                macs=n_read * k,
                nbytes=n_read * weight.data.size // vocab,
            )


def tail(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    """Candidates of logits of which most are left to their bounds, at several temperatures, 0 among them; NaN and infinity."""

    def weights(x: F32, best: np.float32, temperature: np.float32) -> float:
        if np.isnan(x).any():
            return np.nan
        exact = numerics.exp((x - best) / temperature)
        return float(sum(np.float64(numerics.lane_sum(exact[at : at + 1024])) for at in range(0, len(x), 1024)))

    for t, vocab in ((t, vocab) for t in ts for vocab in (1, 17, 100, 3000)):
        for k, kind in ((k, kind) for k in (1, 2, 40) if k <= vocab for kind in ("normal", "not finite")):
            g = _rng("tail", t, vocab, k)
            logits = np.float32(6) * _normal(g, t, vocab)
            upper = logits + np.abs(_normal(g, t, vocab))
            least = np.sort(logits, axis=1)[:, [-min(vocab, 25)]]
            logits[upper < least] = -np.inf
            ids, values = numerics.top_k(logits, k)
            if kind == "not finite":
                upper[:, -1], logits[:, -1] = (np.inf, np.nan)[t % 2], (-np.inf, np.nan)[t % 2]
            temperatures = np.array([(0.7, 0, 3)[r % 3] for r in range(t)], np.float32)
            expected = np.zeros((t, 3), np.float32)
            for r, temperature in enumerate(temperatures):
                if not temperature:
                    continue
                n, best, slack = int((values[r] >= least[r]).sum()), values[r, 0], 2.0**-14
                at_most = np.where(logits[r] == -np.inf, upper[r], logits[r])
                listed = weights(values[r, :n], best, temperature)
                most = weights(at_most, best, temperature) * (1 + slack) - listed * (1 - slack)
                fewest = weights(logits[r], best, temperature) * (1 - slack) - listed * (1 + slack)
                bound = screening.above(np.float64(most)) if most > 0 else np.inf if np.isnan(most) else 0.0
                expected[r] = bound, max(fewest * (1 - 2.0**-20), 0) if fewest > 0 else 0, n
            yield Case(
                f"T={t} V={vocab} k={k} {kind}",
                t,
                {"vocab": vocab},
                (logits, upper, least, ids, values),
                (expected,),
                padding=("kept",),
                vocab=vocab,
                top_k=k,
                temperatures=temperatures,
            )


def rescore(layout: str, ts: Sequence[int]) -> Iterator[Case]:
    """Thresholds that leave every row, none, those of few bounds and those of many; equal bounds reach them."""
    for vocab, k, h, weight, logits in _equal_rows("rescore", layout, ts):
        t = len(h)
        upper = np.round(logits + np.float32(1)).astype(np.float32)
        for label, rank in (("all", vocab), ("many", vocab // 2 + 1), ("few", 3), ("none", 0)):
            least = np.sort(upper, axis=1)[:, -rank, None] if rank else np.full((t, 1), 1e9, np.float32)
            left = upper >= least
            n = int(left.sum())
            yield Case(
                f"T={t} V={vocab} {label}",
                t,
                {"k": k, "vocab": vocab},
                (h, upper, least),
                (np.where(left, logits, np.float32(-np.inf)),),
                (weight,),
                padding=("kept",),
                vocab=vocab,
                macs=n * k,
                skipped=(t * vocab - n) * k,
                nbytes=n * weight.data.size // vocab,
            )


def _tables(g: np.random.Generator, n_blocks: int) -> I32:
    """Blocks of two sequences, in no order."""
    return g.permutation(2 * n_blocks).reshape(2, n_blocks).astype(np.int32)


def int8_block(codes: NDArray[np.int8], scales: F32) -> NDArray[np.uint8]:
    """A cache of int8 as bytes: each block and head its codes, in either order, then its scales."""
    n_blocks, heads = codes.shape[:2]
    flat = np.ascontiguousarray(codes).reshape(n_blocks, heads, -1).view(np.uint8)
    return np.concatenate([flat, np.ascontiguousarray(scales, np.float32).view(np.uint8)], axis=2)


def rope_kv(layout: str, ts: Sequence[int], int8: bool = False) -> Iterator[Case]:
    for t in ts:
        for i, d in enumerate((2, 4, 16, 30, 32, 64, 100, 128, 256)):
            for interleaved in (0, 1):
                block = (16, 64, 256)[(i + t) % 3]
                yield from _rope_cases(_rng("rope", t, d, interleaved), t, d, block, interleaved, int8)


def _rope_cases(g: np.random.Generator, t: int, d: int, block: int, interleaved: int, int8: bool) -> Iterator[Case]:
    heads, kv_heads = 6, 2
    n_blocks = -(-(t + 40) // block)
    context = n_blocks * block
    cos, sin = numerics.rope_tables(context, d, 10000.0)
    q, k, v = _normal(g, t, heads * d), _normal(g, t, kv_heads * d), _normal(g, t, kv_heads * d)
    # Ties of normal and denormal float16, the greatest value that still rounds down, a sum that carries into the exponent.
    edges = (1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 2**-25, 3 * 2**-25, -(2**-24), 6e-5, 2047.5 / 2048, -0.0)
    if int8:
        edges = (127.0, 0.5, 1.5, -2.5, 126.5, -126.5, 64.49, -0.0)
    v[0, : len(edges)] = np.array(edges, np.float32)[: v.shape[1]]
    if int8:
        v[0, d : 2 * d] = _borders(g, 1, d)
    positions = g.permutation(context)[:t].astype(np.int32)
    positions[-1] = context - 1 if context - 1 not in positions[:-1] else positions[-1]
    slots, tables = g.integers(0, 2, t, np.int32), _tables(g, n_blocks)
    if interleaved and t > 2:
        # One sequence after another token of another one, across the border of a block where there are two.
        positions = (min(block, context - t) - 3 + np.arange(t)).astype(np.int32)
        slots[:] = 1
        slots[0] = 0
    style = "interleaved" if interleaved else "half"

    def rotated(x: F32) -> F32:
        return numerics.apply_rope(x.reshape(t, -1, d), cos[positions], sin[positions], style)

    before = g.integers(0, 1 << 15, (2, 2 * n_blocks, kv_heads, d * block), np.uint16)
    if int8:
        before = before.astype(np.int8)
    keys, values = before[0].reshape(-1, kv_heads, d, block), before[1].reshape(-1, kv_heads, block, d)
    scales = _normal(g, 2, 2 * n_blocks, kv_heads, block)
    keys_after, values_after, scales_after = keys.copy(), values.copy(), scales.copy()
    for row, (at, slot) in enumerate(zip(positions, slots, strict=True)):
        own = tables[slot, at // block]
        key, value = rotated(k)[row], v.reshape(t, -1, d)[row]
        if int8:
            keys_after[own, :, :, at % block], scales_after[0, own, :, at % block] = numerics.quantize_activations(key)
            values_after[own, :, at % block], scales_after[1, own, :, at % block] = numerics.quantize_activations(value)
        else:
            keys_after[own, :, :, at % block] = numerics.to_f16(key).view(np.uint16)
            values_after[own, :, at % block] = numerics.to_f16(value).view(np.uint16)
    if int8:
        keys, values = int8_block(keys, scales[0]), int8_block(values, scales[1])
        keys_after, values_after = int8_block(keys_after, scales_after[0]), int8_block(values_after, scales_after[1])

    def case(label: str, k: F32, v: F32, failure: tuple[str, int] | None = None) -> Case:
        return Case(
            f"T={t} d={d} block={block} {style} {label}",
            t,
            {"layer": 0, "n_heads": heads, "n_kv_heads": kv_heads, "head_dim": d, "interleaved": interleaved},
            (q, k, v),
            (rotated(q).reshape(t, -1),),
            (_f32(cos), _f32(sin)),
            in_place=label == "in place",
            positions=positions,
            slots=slots,
            tables=tables,
            cache=Cache(keys, values, keys_after, values_after, (kv_heads, d, block)),
            failure=failure,
        )

    yield case("", k, v)
    yield case("in place", k, v)
    for value in (np.nan, np.inf, *(() if int8 else (65520.0, -65520.0))):
        bad = v.copy()
        bad[-1, -1] = value
        yield case(f"value {value}", k, bad, ("kv_overflow", t - 1))
    bad = k.copy()
    bad[-1, :d] = np.inf if int8 else 1e5
    yield case("keys too large", bad, v, ("kv_overflow", t - 1))


def attention(layout: str, ts: Sequence[int], int8: bool = False) -> Iterator[Case]:
    shapes = ((1, 1), (4, 4), (4, 2), (5, 1), (6, 2), (8, 1), (7, 1))
    for t in ts:
        for i, d in enumerate((2, 16, 30, 64, 100, 128, 256)):
            heads, kv_heads = shapes[(i + t) % len(shapes)]
            yield _attention_case(
                _rng("attention", t, d, heads), t, d, heads, kv_heads, (16, 64, 128, 256)[(i + t) % 4], int8
            )


def _attention_case(g: np.random.Generator, t: int, d: int, heads: int, kv_heads: int, block: int, int8: bool) -> Case:
    n_blocks = -(-SEQUENCE // block)
    tables, slots = _tables(g, n_blocks), g.integers(0, 2, t, np.int32)
    edges = np.array([0, 14, 15, 16, block - 1, block, 255, 256, 257, 511, 513, SEQUENCE - 1])
    # Each place of the cache belongs to one token of the batch.
    positions = g.permutation(np.unique(edges))[:t].astype(np.int32)
    kept = [_normal(g, 2, SEQUENCE, kv_heads, d) for _ in range(2)]
    (k, k_scales), (v, v_scales) = (
        [a.reshape(2, SEQUENCE, kv_heads, -1) for a in numerics.quantize_activations(x.reshape(-1, d))]
        if int8
        else (x.astype(np.float16), np.ones((2, SEQUENCE, kv_heads, 1), np.float32))
        for x in kept
    )
    # What no token may read is NaN, or has a scale that is.
    bits = np.int8 if int8 else np.uint16
    keys = np.full((2 * n_blocks, kv_heads, d, block), 0x55 if int8 else 0x7E55, bits)
    values = np.full((2 * n_blocks, kv_heads, block, d), 0x55 if int8 else 0x7E55, bits)
    scales = np.full((2, 2 * n_blocks, kv_heads, block), np.nan, np.float32)
    for slot in range(2):
        known = 1 + max((int(p) for p, s in zip(positions, slots, strict=True) if s == slot), default=-1)
        for at in range(known):
            own = tables[slot, at // block]
            keys[own, :, :, at % block], values[own, :, at % block] = k[slot, at].view(bits), v[slot, at].view(bits)
            scales[:, own, :, at % block] = k_scales[slot, at, :, 0], v_scales[slot, at, :, 0]
    if int8:
        keys, values = int8_block(keys, scales[0]), int8_block(values, scales[1])
    q = _normal(g, t, heads, d) * np.float32(2)
    group = heads // kv_heads
    y = np.empty_like(q)
    for row, (at, slot) in enumerate(zip(positions, slots, strict=True)):
        for h in range(kv_heads):
            own = slice(h * group, (h + 1) * group)
            scaled = [x[slot, : at + 1, h, 0] for x in (k_scales, v_scales)] if int8 else []
            y[row, own] = numerics.attend(q[row, own], k[slot, : at + 1, h], v[slot, : at + 1, h], *scaled)
    seen = int(positions.sum()) + t
    return Case(
        f"T={t} d={d} heads={heads}/{kv_heads} block={block}",
        t,
        {"layer": 0, "n_heads": heads, "n_kv_heads": kv_heads, "head_dim": d},
        (q.reshape(t, -1),),
        (y.reshape(t, -1),),
        positions=positions,
        slots=slots,
        tables=tables,
        cache=Cache(keys, values, keys, values, (kv_heads, d, block)),
        macs=2 * heads * d * seen,
        nbytes=2 * kv_heads * vector_bytes("int8" if int8 else "f16", d) * seen,
    )


CASES: Mapping[str, Callable[[str, Sequence[int]], Iterator[Case]]] = {
    "embedding": embedding,
    "rmsnorm": rmsnorm,
    "quantize": quantize,
    "rmsnorm_quantize": rmsnorm_quantize,
    "linear": linear,
    "rope_kv": rope_kv,
    "rope_kv_int8": partial(rope_kv, int8=True),
    "attention": attention,
    "attention_int8": partial(attention, int8=True),
    "relu2_mul": _gated("relu2_mul", numerics.relu2_mul),
    "silu_mul": _gated("silu_mul", numerics.silu_mul),
    "output_rows": output_rows,
    "logits_projection": logits_projection,
    "select": select,
    "screen": screen,
    "threshold": threshold,
    "refine": refine,
    "rescore": rescore,
    "tail": tail,
}
"""op → cases of it for a resident layout and numbers of rows."""
