"""One kernel standing alone: a plan of a few equal steps, run by the native executor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tritium import _native
from tritium.backends import cpu
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step, encode_plan
from tritium.kernel_table import kernel_table
from tritium.layouts import LAYOUTS
from tritium.ops import OPS

COLD_BYTES = 96 << 20
"""Weights of a point that reads memory: more than caches hold."""
SPARSE = ("i2_s", "i2s_columns")
"""Layouts of linears that multiply only the rows, or columns, that a token needs."""
GATE = 2
"""The input of a linear that says which rows are needed."""


@dataclass(frozen=True, slots=True)
class Point:
    """T rows of k features through an op; a linear has n rows of weights.

    ``weights`` is the layout of a linear's weights. ``is_cold``: the weights stand in memory several times, and every step of a
    pass reads others. ``needed``: the share of open gates before rows of I2_S, or of codes that are not 0 before columns.
    """

    op: str
    t: int
    k: int
    n: int = 0
    is_cold: bool = False
    weights: str = "i2s"
    needed: float = 1.0

    @property
    def layout(self) -> str:
        """The resident layout of its weights."""
        return self.weights if self.op == "linear" else "f32" if self.op == "rmsnorm_quantize" else "none"


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of a bench: nanoseconds, multiply-accumulates, bytes of weights, as the executor counted them."""

    ns: int
    macs: int
    bytes: int


class Bench:
    """A point's program with the kernels of one instruction set. Errors: ValueError if that does not run here."""

    def __init__(self, point: Point, isa: str, n_threads: int) -> None:
        rng = np.random.default_rng(0)
        weights = _weights(point, rng)
        n_steps = -(-COLD_BYTES // weights.size) if point.is_cold else 1
        buffers, at = [], 0
        for dtype, width in (*_inputs(point), *_outputs(point)):
            buffers.append(Buffer(dtype, dtype, "tokens", width, at))
            at += point.t * width * (1 if dtype == "i8" else 4)
        split = len(_inputs(point))
        operands = tuple(Operand(i, 0) for i in range(len(buffers)))
        n_residents = n_steps if weights.size else 0
        rows = -(-point.n // 16) * 16 or 1
        self._program = _native.Program(
            encode_plan(
                Plan(
                    architecture="", backend="cpu", profile="", graph_hash="", max_tokens=point.t, max_outputs=1, max_context=1,
                    vocab_size=1, n_kv_layers=0, n_kv_heads=0, head_dim=0, kv_block=0, arena_bytes=at, rope_theta=0.0,
                    rope_factors=(), buffers=tuple(buffers),
                    residents=tuple(
                        Resident((f"w{i}",), point.layout, rows, point.k, weights.size) for i in range(n_residents)
                    ),
                    steps=tuple(
                        Step(
                            point.op, point.op, i, operands[:split], operands[split:], _attrs(point),
                            _choices(point, isa, (i,) if weights.size else ()),
                        )
                        for i in range(n_steps)
                    ),
                ),
                OPS,
            ),
            [weights.copy() for _ in range(n_residents)], 1, n_threads,
        )  # fmt: skip
        for i in range(split):
            x = self._program.buffer(i)
            x[:] = rng.integers(-127, 128, x.shape) if x.dtype == np.int8 else rng.standard_normal(x.shape, np.float32)
        if point.layout == "i2_s":
            gate = self._program.buffer(GATE)
            gate[:] = np.where(rng.random(gate.shape) < point.needed, 1, -1)
        elif point.layout == "i2s_columns":
            codes = self._program.buffer(0)
            codes[rng.random(codes.shape) >= point.needed] = 0
        self._column, self._table, self._none = (np.zeros(s, np.int32) for s in (point.t, (1, 1), 0))

    def run(self) -> Pass:
        """One pass over all steps. Errors: RuntimeError if a kernel reports a failure."""
        self._program.reset_counters()
        c = self._column
        if self._program.step(_native.Request(c, c, c, self._table, self._none, 0, None, None, None)):
            raise RuntimeError(f"{self._program.failure()}")
        counted = self._program.counters()
        return Pass(*(int(counted[:, i].sum()) for i in (6, 3, 5)))


def activation_bytes(point: Point) -> int:
    """What the inputs and outputs of a step take."""
    buffers = (*_inputs(point), *_outputs(point))
    return sum(point.t * width * (1 if dtype == "i8" else 4) for dtype, width in buffers)


def _inputs(p: Point) -> list[tuple[str, int]]:
    """(dtype, width) of each: of a linear codes and their scale, then gates before rows of I2_S."""
    if p.op == "linear":
        gate = [("f32", _wide(p.n, 16))] if p.layout == "i2_s" else []
        return [("i8", _wide(p.k, 64)), ("f32", 16), *gate]
    return [("f32", _wide(p.k, 16))] * (1 if p.op == "rmsnorm_quantize" else 2)


def _outputs(p: Point) -> list[tuple[str, int]]:
    """(dtype, width) of each."""
    if p.op == "rmsnorm_quantize":
        return [("i8", _wide(p.k, 64)), ("f32", 16)]
    return [("f32", _wide(p.n if p.op == "linear" else p.k, 16))]


def _wide(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _attrs(p: Point) -> dict[str, float]:
    known = {"k": p.k, "n": p.n, "group": 0, "act_bits": 8, "accumulate": 0, "eps": 1e-5}
    return {name: known[name] for name in (*OPS[p.op].ints, *OPS[p.op].floats)}


def _weights(p: Point, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random trits; ones for a norm."""
    if p.op != "linear":
        return np.ones(p.k if p.layout == "f32" else 0, np.float32).view(np.uint8)
    trits = rng.integers(-1, 2, (p.n, p.k), np.int8)
    if p.layout not in SPARSE:
        return cpu.pack_trits(trits, 1.0, 1, p.layout)
    rows = np.frombuffer(LAYOUTS["i2_s"].pack_trits(trits, np.ones(1, np.float32)), np.uint8)
    return rows if p.layout == "i2_s" else _native.pack_i2s_columns(rows, p.n, p.k, 1.0, "128")


def _choices(p: Point, isa: str, residents: tuple[int, ...]) -> tuple[Choice, ...]:
    rows = [row for row in kernel_table() if (row.op, row.isa) == (p.op, isa) and row.layout in (p.layout, "none")]
    return tuple(Choice(row.id, row.t_min, row.t_max, residents) for row in sorted(rows, key=lambda row: row.t_min))
