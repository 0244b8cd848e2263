"""Run one kernel on one case as a plan of one step, and compare every byte that it may and may not have touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernel_cases import CASES, Case
from sparse_cases import SPARSE
from sparse_cases import cases as sparse_cases
from tritium import _native
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step, encode_plan
from tritium.kernel_table import TableRow, kernel_table
from tritium.ops import OPS, SCREENED_HEAD

SENTINEL = 0xAB
GAP = 64
"""Sentinel bytes before, between and after the buffers."""

MANY_ROWS = {"linear": (*range(1, 13), 13, 24, 25, 97, 290), "logits_projection": (1, 2, 3, 4, 5, 7, 8, 9, 12),
             "attention": (1, 2, 3, 5, 8), "attention_int8": (1, 2, 3, 5, 8), "rope_kv": (1, 2, 5, 21),
             "screen": (1, 2, 5, 8, 15)}  # fmt: skip
FEW_ROWS = (1, 2, 5)
OUTPUT_OPS = ("logits_projection", "select", "output_rows", *SCREENED_HEAD, "tail")

Make = Callable[[Plan, list[NDArray[np.uint8]], int, int], Any]
"""What makes a program of a plan, its weights, blocks of the cache and a number of threads."""


def native(plan: Plan, weights: list[NDArray[np.uint8]], kv_blocks: int, n_threads: int) -> _native.Program:
    """The program of this machine's core."""
    return _native.Program(encode_plan(plan, OPS), weights, kv_blocks, n_threads)


@cache
def cases(op: str, layout: str) -> tuple[Case, ...]:
    """An op's cases are the same for all instruction sets, and computed once."""
    if op == "linear" and layout in SPARSE:
        return tuple(sparse_cases(layout))
    return tuple(CASES[op](layout, MANY_ROWS.get(op, FEW_ROWS)))


def cases_of(row: TableRow) -> list[Case]:
    """The cases with a number of rows that the kernel takes."""
    mine = [
        case for case in cases(row.op, row.layout) if row.t_min <= case.t and (not row.t_max or case.t <= row.t_max)
    ]
    assert mine, "no case has a number of rows that the kernel takes"
    return mine


@dataclass(frozen=True)
class Layout:
    """Where a case's operands lie in an arena that has one row more than the case uses, and gaps."""

    buffers: tuple[Buffer, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    nbytes: int


def lay_out(op: str, case: Case, n_tokens: int) -> Layout:
    buffers: list[Buffer] = []
    at = GAP

    def place(array: NDArray[Any], name: str, domain: str) -> Operand:
        nonlocal at
        per_vector = 64 // array.itemsize
        width = -(-array.shape[1] // per_vector) * per_vector
        dtype = {"f": "f32", "b": "i8", "i": "i32"}[array.dtype.char]
        buffers.append(Buffer(name, dtype, domain, width, at))  # type: ignore[arg-type]
        at += (n_tokens + 1) * width * array.itemsize + GAP
        return Operand(len(buffers) - 1, 0)

    results = "outputs" if op in OUTPUT_OPS else "tokens"
    inputs = tuple(place(x, f"in{i}", "tokens" if op == "output_rows" else results) for i, x in enumerate(case.inputs))
    if case.in_place:
        return Layout(tuple(buffers), inputs, inputs[:1], at)
    outputs = tuple(place(y, f"out{i}", results) for i, y in enumerate(case.expected))
    return Layout(tuple(buffers), inputs, outputs, at)


def choices(op: str, layout: str, isa: str, case: Case) -> tuple[Choice, ...]:
    """All kernels of the instruction set for the op and layout: a plan must know what to do for any T."""

    def rows(layout: str) -> list[TableRow]:
        mine = [row for row in kernel_table() if (row.op, row.layout, row.isa) == (op, layout, isa)]
        return sorted(mine, key=lambda row: row.t_min)

    residents = tuple(range(len(case.weights)))
    return tuple(Choice(row.id, row.t_min, row.t_max, residents) for row in rows(layout))


def make_program(
    op: str, layout: str, isa: str, case: Case, n_tokens: int, place: Layout, n_threads: int, make: Make
) -> tuple[_native.Program, tuple[Choice, ...]]:
    step = Step(op, op, 0, place.inputs, place.outputs, case.attrs, choices(op, layout, isa, case))
    cached = case.cache
    residents = tuple(Resident((f"w{i}",), w.layout, w.rows, w.cols, w.data.size) for i, w in enumerate(case.weights))
    context = (
        case.weights[0].rows
        if op.startswith("rope_kv")
        else 1
        if case.positions is None
        else int(case.positions.max()) + 1
    )
    n_kv_heads, head_dim, block = (0, 0, 0) if cached is None else cached.shape
    plan = Plan(
        architecture="", backend="cpu", profile="", graph_hash="", max_tokens=n_tokens + 1, max_outputs=n_tokens + 1,
        max_context=context, vocab_size=case.vocab, n_kv_layers=0 if cached is None else 1,
        n_kv_heads=n_kv_heads, head_dim=head_dim, kv_block=block, arena_bytes=place.nbytes, rope_theta=0.0, rope_factors=(),
        buffers=place.buffers, residents=residents, steps=(step,),
    )  # fmt: skip
    weights = [w.data for w in case.weights]
    blocks = 1 if cached is None else len(cached.keys)
    return make(plan, weights, blocks, n_threads), step.choices


def fill(program: _native.Program, case: Case, place: Layout) -> None:
    program.arena()[:] = SENTINEL
    for operand, x in zip(place.inputs, case.inputs, strict=True):
        rows = program.buffer(operand.buffer)[: len(x)]
        rows[:] = 0
        rows[:, : x.shape[1]] = x
    if case.initial is not None:
        program.buffer(place.outputs[0].buffer)[: len(case.initial)] = case.initial
    if case.cache is not None:
        keys, values = program.kv(0)
        keys[:], values[:] = case.cache.keys, case.cache.values


def expect(before: NDArray[np.uint8], case: Case, place: Layout) -> NDArray[np.uint8]:
    """The arena as it must be after the call, given what it was."""
    after = before.copy()
    for i, (operand, y) in enumerate(zip(place.outputs, case.expected, strict=True)):
        b = place.buffers[operand.buffer]
        rows = after[b.offset :][: len(y) * b.width * y.itemsize].view(y.dtype).reshape(len(y), b.width)
        if not case.padding or case.padding[i] == "zero":
            rows[:] = 0
        rows[:, : y.shape[1]] = y
    return after


def owned(case: Case, place: Layout) -> NDArray[np.bool_]:
    """The bytes that a call may write: whole rows of its outputs."""
    mask = np.zeros(place.nbytes, np.bool_)
    for operand, y in zip(place.outputs, case.expected, strict=True):
        b = place.buffers[operand.buffer]
        mask[b.offset : b.offset + len(y) * b.width * y.itemsize] = True
    return mask


def difference(got: NDArray[np.uint8], wanted: NDArray[np.uint8], place: Layout) -> str:
    """Where the first wrong byte lies, as an element of the last buffer that begins before it."""
    wrong = np.flatnonzero(got != wanted)
    before = [b for b in place.buffers if b.offset <= wrong[0]]
    if not before:
        return "wrote before the first buffer"
    b = before[-1]
    row, column = divmod((int(wrong[0]) - b.offset) // {"f32": 4, "i8": 1, "i32": 4}[b.dtype], b.width)
    return f"{wrong.size} wrong bytes, the first in {b.name}[{row}, {column}] of width {b.width}"


def check(
    row: TableRow, case: Case, n_threads: int, make: Make = native, request: Callable[..., Any] = _native.Request
) -> str | None:
    """Run a case with the row's instruction set. What is wrong, if anything.

    ``make`` stands in for the native program, and ``request`` for what it takes.
    """
    op, layout, isa = row.op, row.layout, row.isa
    n_tokens = max([case.t, *(len(x) for x in case.inputs)])
    place = lay_out(op, case, n_tokens)
    program, offered = make_program(op, layout, isa, case, n_tokens, place, n_threads, make)
    fill(program, case, place)
    before = program.arena().copy()

    def column(values: NDArray[np.int32] | None) -> NDArray[np.int32]:
        return np.zeros(n_tokens, np.int32) if values is None else values

    outputs = np.arange(case.t if op in OUTPUT_OPS else 0, dtype=np.int32) if case.outputs is None else case.outputs
    k = case.top_k
    ids, values = (
        (np.zeros((case.t, k), np.int32), np.zeros((case.t, k), np.float32)) if op == "select" else (None, None)
    )
    rows = (column(case.tokens), column(case.positions), column(case.slots))
    rest = None if case.temperatures is None else np.zeros((case.t, 3), np.float32)
    failed = program.step(
        request(*rows, case.tables, outputs, k, None, ids, values, temperatures=case.temperatures, rest=rest)
    )
    code, _, at = program.failure()
    if (code, at) != (case.failure or ("none", -1)) or bool(failed) != (case.failure is not None):
        return f"expected failure {case.failure}, got {code} in row {at}"
    after = program.arena()
    if case.failure is not None:
        others = ~owned(case, place)
        return None if np.array_equal(after[others], before[others]) else "touched what it does not own"
    wanted = before if op == "select" else expect(before, case, place)
    if not np.array_equal(after, wanted):
        return difference(after, wanted, place)
    if (
        ids is not None
        and values is not None
        and [ids.tobytes(), values.tobytes()] != [y.tobytes() for y in case.expected]
    ):
        return f"expected {case.expected}, got {ids}, {values}"
    if case.cache is not None:
        keys, kept = program.kv(0)
        if not (np.array_equal(keys, case.cache.keys_after) and np.array_equal(kept, case.cache.values_after)):
            return "the cache holds something else"
    return check_counts(program, offered, case)


def check_counts(program: _native.Program, offered: tuple[Choice, ...], case: Case) -> str | None:
    for _, choice, calls, macs, skipped, nbytes, _ in program.counters():
        meant = offered[choice].t_min <= case.t and (not offered[choice].t_max or case.t <= offered[choice].t_max)
        if calls != meant or skipped != (case.skipped if meant else 0):
            return f"{offered[choice].kernel} ran {calls} times and skipped {skipped} MACs"
        if meant and (
            (case.macs is not None and macs != case.macs) or (case.nbytes is not None and nbytes != case.nbytes)
        ):
            return f"expected {case.macs} MACs and {case.nbytes} bytes, counted {macs} and {nbytes}"
    return None
