"""The CPU back end: native kernels, chosen by what the machine has; the only importer of the native module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tritium
from tritium import _native, env, numerics
from tritium.backends import Program, TensorSource
from tritium.backends.kernel_choice import (
    COLUMNS_LAYOUT,
    DIALECTS,
    GROUPS_LAYOUT,
    PANELS,
    PLANE_LAYOUT,
    ROWS_LAYOUT,
    KernelChoice,
)
from tritium.backends.packed import PackedStore
from tritium.backends.tuning import FOLDER, Tuner, middle_turn, product_plan
from tritium.errors import FormatError, NumericsError, OutOfMemoryError, ShapeError, UnsupportedError
from tritium.ir import Plan, Resident, encode_plan
from tritium.layouts import LAYOUTS
from tritium.ops import OPS, cache_of, vector_bytes
from tritium.resources import available_memory, cpu_model, usable_cpus
from tritium.types import Batch, StepResult, Trace, TraceLevel

MAX_TOP_K = 1024
_FLOATS = ("f32", "f16", "bf16")
COLD_BYTES = 96 << 20
"""More than caches hold: what products are timed on."""
TUNING_ROUNDS = 11
_EMPTY_I32 = np.zeros((0, 0), np.int32)
Request = _native.Request
"""The arrays of a step of ``kernel_program``."""


def isas() -> tuple[str, ...]:
    """Instruction sets in use, best first: compiled in, in the CPU, passed by the self-test, not above TRITIUM_ISA.

    Errors: UnsupportedError if TRITIUM_ISA names one that does not run here.
    """
    usable = tuple(_native.isas())
    forced = env.isa()
    if forced is None:
        return usable
    if forced not in usable:
        raise UnsupportedError("instruction set", where="TRITIUM_ISA", expected=" or ".join(usable), got=forced)
    return usable[usable.index(forced) :]


def isa_status() -> tuple[tuple[str, str], ...]:
    """(name, status) of every instruction set, best first: "ok", or why its kernels are not used."""
    return tuple(_native.isa_status())


def build_info() -> tuple[str, str, str]:
    """(compiler, flags, architecture) of the native core."""
    return _native.build_info()


def library_path() -> Path:
    """The file of the native core."""
    return Path(_native.__file__)


def read_bandwidth(n_threads: int, n_bytes: int) -> float:
    """Gigabytes (10⁹ bytes) a second that ``n_threads`` read together from a buffer: the median of several passes."""
    return _native.read_bandwidth(n_threads, n_bytes)


def int8_peak(isa: str, n_threads: int) -> float:
    """Billions of int8 multiply-accumulates a second that ``n_threads`` reach together on registers: the best of several passes.

    Errors: ValueError for an instruction set that does not run here.
    """
    return _native.int8_peak(isa, n_threads)


def f32_peak(isa: str, n_threads: int) -> float:
    """The same of float32, each product rounded before it is added: the bound of attention. Errors: as ``int8_peak``."""
    return _native.f32_peak(isa, n_threads)


def kernel_program(plan: Plan, weights: list[NDArray[np.uint8]], n_threads: int) -> _native.Program:
    """A plan that stands for itself, its residents as bytes in their native layouts: for measuring single kernels.

    Errors: ValueError for a malformed plan or a resident of a wrong size.
    """
    return _native.Program(encode_plan(plan, OPS), weights, 1, n_threads)


def time_layouts(n: int, k: int, layouts: Sequence[str], n_threads: int) -> dict[str, float]:
    """Nanoseconds of one token's product by a matrix (n, k) in each layout, over cold memory.

    Bandwidth can double and halve from one moment to the next where other machines share the processor. So layouts take turns,
    and the times are those of one turn: that in which the first and the last compare as they do in the middle of all turns.
    """
    backend, rows = CpuBackend(), -(-n // 16) * 16
    sizes = {layout: backend.resident_bytes(layout, rows, k) for layout in layouts}
    memory = np.full(max(COLD_BYTES, *sizes.values()) + 64, 0x55, np.uint8)  # codes and digits alike
    memory = memory[-memory.ctypes.data % 64 :]
    turns: list[dict[str, float]] = []
    attrs = {"group": 0, "act_bits": 8}
    programs = {}
    for layout, size in sizes.items():
        count = len(memory) // size
        plan = product_plan(n, k, layout, backend.kernels("linear", layout, attrs), size, count)
        programs[layout] = (
            kernel_program(plan, [memory[i * size : (i + 1) * size] for i in range(count)], n_threads),
            count,
        )
    zero, table, none = np.zeros(1, np.int32), np.zeros((1, 1), np.int32), np.zeros(0, np.int32)
    request = Request(zero, zero, zero, table, none, 0)
    for _ in range(1 + TUNING_ROUNDS):
        turns.append({})
        for layout, (program, count) in programs.items():
            program.reset_counters()
            program.step(request)
            turns[-1][layout] = int(program.counters()[:, 6].sum()) / count
    return middle_turn(turns[1:])


def tuner(n_threads: int) -> Tuner:
    """The times that are known of this machine with so many threads, and what finds out more of them."""
    versions = " ".join(f"{layout} {PACKED[layout][0]}" for layout in PANELS)
    identity: dict[str, str | int] = {
        "cpu": cpu_model() or "unknown", "isas": " ".join(isas()), "threads": n_threads, "tritium": tritium.__version__,
        "layouts": versions, "build": " ".join(build_info()),
    }  # fmt: skip
    return Tuner(env.cache_folder() / FOLDER, identity, partial(time_layouts, n_threads=n_threads))


def pack_trits(trits: NDArray[np.int8], scale: float, n_threads: int, layout: str = "i2s") -> NDArray[np.uint8]:
    """Trits (rows, cols) as the panels that kernels read, of layout "i2s" or "tq1"."""
    return _native.pack_trits([(trits, scale)], n_threads, layout)


def pack_i2s(data: NDArray[np.uint8], rows: int, cols: int, scale: float, n_threads: int) -> NDArray[np.uint8]:
    """An I2_S tensor of a file, its tail included, as panels. Errors: CodeError for a code 3; ValueError for a wrong size."""
    return _native.pack_i2s([(data, rows, cols, scale, "128")], n_threads)


def sha256_each(arrays: Sequence[NDArray[np.uint8]], n_threads: int) -> list[bytes]:
    """SHA-256 of each array, by several threads, without the interpreter's lock."""
    return _native.sha256_each(list(arrays), n_threads)


class CpuBackend(KernelChoice):
    """The native core's kernels; ``order``: those of this machine by default. With others it plans for another machine.

    ``tuner`` knows how long products take here with panels of either layout; None: nobody does.
    """

    name = "cpu"

    def __init__(self, order: tuple[str, ...] | None = None, tuner: Tuner | None = None) -> None:
        usable = frozenset(row[0] for row in _native.kernels()) if order is None else None
        super().__init__(isas() if order is None else order, usable, tuner.times if tuner else None)

    def program(
        self, plan: Plan, binary: bytes, source: TensorSource, n_threads: int | None, kv_blocks: int,
        store: PackedStore | None = None,
    ) -> Program:  # fmt: skip
        """Put weights in their native layouts and start the threads."""
        return CpuProgram(plan, binary, source, n_threads or default_threads(), kv_blocks, store)


def backend() -> CpuBackend:
    """The back end."""
    return CpuBackend()


def default_threads() -> int:
    """TRITIUM_THREADS, else the CPUs that affinity and control groups leave this process."""
    return env.threads() or usable_cpus()


class CpuProgram:
    """The native executor with its weights. One step is one call; the interpreter's lock is released during it.

    ``available``: bytes that may be taken; None asks the system. Errors: OutOfMemoryError before weights, cache and buffers are
    allocated; FormatError for a weight that cannot be packed.
    """

    def __init__(
        self, plan: Plan, binary: bytes, source: TensorSource, n_threads: int, kv_blocks: int,
        store: PackedStore | None = None, available: int | None = None,
    ) -> None:  # fmt: skip
        self.n_threads = n_threads
        self._plan = plan
        left = available_memory() if available is None else available
        weights = residents(plan, source, n_threads, store, partial(_check_memory, plan, source, kv_blocks, left))
        self._native = _native.Program(binary, weights, kv_blocks, n_threads)
        self._names = [f"{s.block}.{s.label}" if s.block >= 0 else s.label for s in plan.steps]
        self._kernels = [(n, c.kernel) for n, s in zip(self._names, plan.steps, strict=True) for c in s.choices]
        self._logits = np.empty((0, plan.vocab_size), np.float32)
        self._ids = _EMPTY_I32
        self._values = np.zeros((0, 0), np.float32)
        self._has_tail = any(step.op == "tail" for step in plan.steps)
        self._batch: Batch | None = None
        self._request: _native.Request
        self._result = StepResult()
        self._lists_many = False  # more candidates than the native core selects

    def step(self, batch: Batch, trace: TraceLevel = "off") -> StepResult:
        """Run the plan on a batch. The result's arrays are reused by the next step, except those of a trace."""
        try:
            if batch is not self._batch or trace != "off":
                self._prepare(batch, trace)
            failed = self._native.step(self._request)
        except ValueError as error:
            self._batch = None
            raise ShapeError(f"batch: {error}") from None
        if failed:
            code, step, row = self._native.failure()
            what = {"not_finite": "activations are not finite", "kv_overflow": "a key or value does not fit the cache"}
            raise NumericsError(what[code], where=f"step {self._names[step]}, row {row}")
        if self._lists_many and self._result.logits is not None:
            ids, values = numerics.top_k(self._result.logits, batch.top_k)
            return replace(self._result, logits=None, ids=ids, values=values)
        return self._result

    def _prepare(self, batch: Batch, trace: TraceLevel) -> None:
        """Where the results of this batch go: of the same one, with other elements, they go there again."""
        n, k = len(batch.outputs), batch.top_k
        logits = ids = values = rest = columns = hidden = rows = None
        temperatures = batch.temperatures if n and k else None
        if n and 0 < k <= MAX_TOP_K and (temperatures is None or self._has_tail):
            if self._ids.shape != (n, k):
                self._ids, self._values = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
            ids, values = self._ids, self._values
            rest = None if temperatures is None else np.empty((n, 3), np.float32)
        elif n:
            temperatures = None
            if len(self._logits) != n:
                self._logits = np.empty((n, self._plan.vocab_size), np.float32)
            logits, k = self._logits, 0
        if trace != "off":
            columns, hidden = np.empty((len(batch.tokens), 32), np.uint8), np.empty((n, 32), np.uint8)
        if trace == "rows":
            rows = np.empty((len(batch.tokens), self._native.trace_row_bytes), np.uint8)
        self._request = _native.Request(
            batch.tokens, batch.positions, batch.slots, batch.block_tables, batch.outputs, k, logits, ids, values,
            columns, hidden, rows, temperatures, rest,
        )  # fmt: skip
        self._batch = batch if trace == "off" else None
        self._lists_many = batch.top_k > MAX_TOP_K and batch.temperatures is None
        project = self._project if rest is not None else None
        draw = None if ids is None else self._request.draw
        self._result = StepResult(logits, ids, values, columns, hidden, rows, rest, project, draw)

    def _project(self, output: int) -> NDArray[np.float32]:
        logits = np.empty(self._plan.vocab_size, np.float32)
        self._native.project(output, logits)
        return logits

    @staticmethod
    def weigh(logits: NDArray[np.float32], first: float, temperature: float) -> NDArray[np.int64]:
        """Integer weights (n,) i64 of a draw by logits (n,) f32; ``first``: the greatest of all."""
        return _native.draw_weights(logits, first, temperature)

    def counts(self) -> Trace:
        """Steps, tokens, wall nanoseconds, counters a step and kernel, all counted natively."""
        return Trace(*self._native.totals(), self._kernels, self._native.counters()[:, 2:])

    def reset_counts(self) -> None:
        """Set all counters to zero."""
        self._native.reset_counters()

    def copy_block(self, source: int, target: int) -> None:
        """Copy a cache block in all layers."""
        self._native.copy_block(source, target)

    def knock_out(self, kernel: str | None) -> None:
        """Let a kernel do nothing; None brings it back. Errors: UnsupportedError for one that the plan does not have."""
        if not self._native.knock_out(kernel or "") and kernel is not None:
            raise UnsupportedError("no such kernel in the plan", got=kernel)

    def close(self) -> None:
        """Release the native executor: weights, cache, threads."""
        self._batch, self._result = None, StepResult()
        del self._native


def residents(
    plan: Plan, source: TensorSource, n_threads: int, store: PackedStore | None = None,
    take: Callable[[int], None] = lambda n_bytes: None,
) -> list[NDArray[np.uint8]]:  # fmt: skip
    """The bytes of the plan's residents, each in its native layout; packed ones are mapped from ``store`` where there is one.

    ``take`` is told of the bytes to come that no file stands behind, and may refuse.
    Errors: FormatError for a weight that cannot be one.
    """
    packed = [r for r in plan.residents if r.layout in PACKED]
    total = sum(r.nbytes for r in packed)
    mapped: dict[Resident, NDArray[np.uint8]] = {}
    if store is not None and store.pays(total):
        take(max(r.nbytes for r in packed))
        for layout, (version, pack) in PACKED.items():
            wanted = [r for r in packed if r.layout == layout]
            found = store.residents(layout, version, wanted, partial(pack, source, n_threads)) if wanted else []
            mapped |= zip(wanted, found or (), strict=found is not None)
    take(total - sum(r.nbytes for r in mapped))
    rope = numerics.rope_tables(plan.max_context, plan.head_dim, plan.rope_theta, plan.rope_factors)
    computed = dict(zip(("rope.cos", "rope.sin"), rope, strict=True))
    # Tables are views of the file: the native side keeps the arrays, and with them the mapping, alive.
    return [mapped[r] if r in mapped else _resident(r, source, computed, n_threads) for r in plan.residents]


def _check_memory(plan: Plan, source: TensorSource, kv_blocks: int, available: int | None, packed: int) -> None:
    """Refuse to begin what the memory that is left cannot hold."""
    kind = cache_of(step.op for step in plan.steps)
    positions = plan.kv_block * kv_blocks
    cache = 2 * plan.n_kv_layers * plan.n_kv_heads * vector_bytes(kind, plan.head_dim) * positions
    tables = sum(r.nbytes for r in plan.residents if r.layout == "f32")
    need = packed + cache + tables + plan.arena_bytes
    if available is not None and need > available:
        parts = {"packed weights": packed, "key-value cache": cache, "buffers": plan.arena_bytes + tables}
        raise OutOfMemoryError(
            "not enough memory",
            expected=f"{need >> 20} MiB (" + ", ".join(f"{name} {n >> 20}" for name, n in parts.items()) + ")",
            got=f"{available >> 20} MiB available",
            hint="Close other programs, or lower --max-context (max_context)",
        )


def _resident(
    resident: Resident, source: TensorSource, computed: Mapping[str, NDArray[np.float32]], n_threads: int
) -> NDArray[np.uint8]:
    """The resident's bytes in the layout that the plan names."""
    name = resident.tensors[0]
    if name in computed:
        return computed[name].reshape(-1).view(np.uint8)
    info = source.tensors[name]
    if resident.layout in PACKED:
        return PACKED[resident.layout][1](source, n_threads, resident)
    if resident.layout == info.layout:
        data = source.data(name)
        if info.layout not in _FLOATS or not _native.all_finite(data, info.layout, n_threads):
            LAYOUTS[info.layout].check(data, info.shape, where=name, offset=info.offset)
        return data
    values = LAYOUTS[info.layout].unpack(source.data(name), info.shape, where=name, offset=info.offset)
    return values.reshape(-1).view(np.uint8)


def _plane(source: TensorSource, n_threads: int, resident: Resident) -> NDArray[np.uint8]:
    """The plane of a head."""
    name = resident.tensors[0]
    return _native.pack_plane(source.data(name), source.tensors[name].layout, resident.rows, resident.cols, n_threads)


def _panels(source: TensorSource, n_threads: int, resident: Resident) -> NDArray[np.uint8]:
    """Ternary tensors stacked into panels. Errors as ``_part``, and FormatError with the byte of a code 3."""
    parts = [_part(name, source) for name in resident.tensors]
    try:
        return _native.pack_i2s(parts, n_threads, resident.layout)
    except _native.CodeError as error:
        raise _code_error(resident, source, *error.args[1:3]) from None


def _rows(source: TensorSource, n_threads: int, resident: Resident) -> NDArray[np.uint8]:
    """A ternary tensor as I2_S in blocks of 128. Errors as ``_panels``."""
    try:
        return _native.pack_i2s_rows(*_part(resident.tensors[0], source), n_threads)
    except _native.CodeError as error:
        raise _code_error(resident, source, *error.args[1:3]) from None


def _columns(source: TensorSource, n_threads: int, resident: Resident) -> NDArray[np.uint8]:
    """A ternary tensor by columns. Errors as ``_panels``."""
    try:
        return _native.pack_i2s_columns(*_part(resident.tensors[0], source), n_threads)
    except _native.CodeError as error:
        raise _code_error(resident, source, *error.args[1:3]) from None


def _part(name: str, source: TensorSource) -> tuple[NDArray[np.uint8], int, int, float, str]:
    """A ternary tensor as the packing takes it, its scale 0 if it has several. FormatError names one that is not finite."""
    info, scale = source.tensors[name], source.scale(name)
    rows, cols = info.shape
    return source.data(name), rows, cols, 0.0 if scale is None else float(scale), DIALECTS[info.layout]


def _code_error(resident: Resident, source: TensorSource, part: int, byte: int) -> FormatError:
    info = source.tensors[resident.tensors[part]]
    where = f"{info.name}, byte {info.offset + byte}"
    return FormatError("invalid ternary code", where=where, expected="0, 1 or 2", got=3)


PACKED: dict[str, tuple[int, Callable[[TensorSource, int, Resident], NDArray[np.uint8]]]] = {
    "i2s": (1, _panels),
    "tq1": (2, _panels),
    GROUPS_LAYOUT: (1, _panels),
    ROWS_LAYOUT: (1, _rows),
    COLUMNS_LAYOUT: (1, _columns),
    PLANE_LAYOUT: (1, _plane),
}
"""Layouts made from a file's bytes alone: the version to raise when the packed bytes change, and what makes them.

Rows that a file has in the same order are among them: they are gathered, which in the small pages of a file takes longer.
"""
