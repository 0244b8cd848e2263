"""Every kernel that runs here against the numeric profile: the same bits, and not a byte touched beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernel_cases import CASES, Case
from tritium import _native
from tritium.ir import Buffer, Choice, Operand, Plan, Resident, Step, encode_plan
from tritium.ops import OPS

ROOT = Path(__file__).parents[2]
SENTINEL = 0xAB
GAP = 64
"""Sentinel bytes before, between and after the buffers."""

ROWS = _native.kernels()
MANY_ROWS = {"linear": (*range(1, 13), 13, 24, 25, 97), "logits_projection": (1, 2, 3, 4, 5, 7, 8, 9, 12),
             "attention": (1, 2, 3, 5, 8)}  # fmt: skip
FEW_ROWS = (1, 2, 5)
OUTPUT_OPS = ("logits_projection", "select", "output_rows")


@cache
def cases(op: str, layout: str) -> tuple[Case, ...]:
    """An op's cases are the same for all instruction sets, and computed once."""
    return tuple(CASES[op](layout, MANY_ROWS.get(op, FEW_ROWS)))


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
    residents = tuple(range(len(case.weights)))
    rows = sorted((row for row in ROWS if row[1:4] == (op, layout, isa)), key=lambda row: row[4])
    return tuple(Choice(name, t_min, t_max, residents) for name, *_, t_min, t_max in rows)


def make_program(
    op: str, layout: str, isa: str, case: Case, n_tokens: int, place: Layout, n_threads: int
) -> tuple[_native.Program, tuple[Choice, ...]]:
    step = Step(op, op, 0, place.inputs, place.outputs, case.attrs, choices(op, layout, isa, case))
    cached = case.cache
    residents = tuple(Resident((f"w{i}",), w.layout, w.rows, w.cols, w.data.size) for i, w in enumerate(case.weights))
    context = (
        case.weights[0].rows if op == "rope_kv" else 1 if case.positions is None else int(case.positions.max()) + 1
    )
    plan = Plan(
        architecture="", backend="cpu", profile="", graph_hash="", max_tokens=n_tokens + 1, max_outputs=n_tokens + 1,
        max_context=context, vocab_size=case.vocab, n_kv_layers=0 if cached is None else 1,
        n_kv_heads=0 if cached is None else cached.keys.shape[1], head_dim=0 if cached is None else cached.keys.shape[2],
        kv_block=0 if cached is None else cached.keys.shape[3], arena_bytes=place.nbytes, rope_theta=0.0, rope_factors=(),
        buffers=place.buffers, residents=residents, steps=(step,),
    )  # fmt: skip
    weights = [w.data for w in case.weights]
    blocks = 1 if cached is None else len(cached.keys)
    return _native.Program(encode_plan(plan, OPS), weights, blocks, n_threads), step.choices


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


def check(op: str, layout: str, isa: str, case: Case, n_threads: int) -> str | None:
    """Run a case. What is wrong, if anything."""
    n_tokens = max([case.t, *(len(x) for x in case.inputs)])
    place = lay_out(op, case, n_tokens)
    program, offered = make_program(op, layout, isa, case, n_tokens, place, n_threads)
    fill(program, case, place)
    before = program.arena().copy()

    def column(values: NDArray[np.int32] | None) -> NDArray[np.int32]:
        return np.zeros(n_tokens, np.int32) if values is None else values

    outputs = np.arange(case.t if op in OUTPUT_OPS else 0, dtype=np.int32) if case.outputs is None else case.outputs
    k = case.top_k
    ids, values = (np.zeros((case.t, k), np.int32), np.zeros((case.t, k), np.float32)) if k else (None, None)
    failed = program.step(
        column(case.tokens), column(case.positions), column(case.slots), case.tables, outputs, k, None, ids, values
    )
    code, _, row = program.failure()
    if (code, row) != (case.failure or ("none", -1)) or bool(failed) != (case.failure is not None):
        return f"expected failure {case.failure}, got {code} in row {row}"
    after = program.arena()
    if case.failure is not None:
        others = ~owned(case, place)
        return None if np.array_equal(after[others], before[others]) else "touched what it does not own"
    wanted = before if k else expect(before, case, place)
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
        if calls != meant or skipped:
            return f"{offered[choice].kernel} ran {calls} times"
        if meant and (
            (case.macs is not None and macs != case.macs) or (case.nbytes is not None and nbytes != case.nbytes)
        ):
            return f"expected {case.macs} MACs and {case.nbytes} bytes, counted {macs} and {nbytes}"
    return None


@pytest.mark.parametrize("kernel", [row[0] for row in ROWS])
def test_a_kernel_gives_the_bits_of_the_profile(kernel: str) -> None:
    _, op, layout, isa, t_min, t_max = next(row for row in ROWS if row[0] == kernel)
    mine = [c for c in cases(op, layout) if t_min <= c.t and (not t_max or c.t <= t_max)]
    assert mine, "no case has a number of rows that the kernel takes"
    for i, case in enumerate(mine):
        wrong = check(op, layout, isa, case, 3 if i % 9 == 8 else 1)
        assert wrong is None, f"{case.label}: {wrong}"


def test_every_usable_instruction_set_covers_the_whole_table() -> None:
    source = (ROOT / "csrc" / "kernels.inc").read_text(encoding="utf-8")
    named = re.findall(r"^KERNEL\((\w+), (\w+), (\w+), (\w+),", source, re.MULTILINE)
    wanted = {row for row in named if row[3] in _native.isas()}
    assert wanted == {row[:4] for row in ROWS}
    assert {row[1] for row in named} <= set(CASES)


def test_no_instruction_set_fails_its_self_test() -> None:
    """A kernel that the self-test refuses is not among those that the tests above enumerate."""
    status = dict(_native.isa_status())
    assert set(status.values()) <= {"ok", "not compiled", "cpu lacks it"}, status
    assert status["scalar"] == "ok"


def objects() -> Iterator[Path]:
    for path in sorted((ROOT / "build").glob("**/csrc/isa/*.cpp.o")):
        if (ROOT / "csrc" / "isa" / path.stem).is_file():
            yield path


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm on this machine")
def test_kernel_units_have_internal_linkage_only() -> None:
    found = list(objects())
    if not found:
        pytest.skip("no object files below build/")
    for path in found:
        listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout.splitlines()
        symbols = [line.split()[-2:] for line in listed]
        shared = {name for kind, name in symbols if (kind.isupper() and kind != "U") or kind in "uvw"}
        assert shared == {f"tritium_kernels_{path.stem.removesuffix('.cpp')}"}, path
        needed = {name for kind, name in symbols if kind == "U"}
        assert not {name for name in needed if name.startswith("_Z")}, path
