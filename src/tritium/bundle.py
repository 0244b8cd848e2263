"""Bundles: what the native executor needs to run a plan where there is no Python, in one file, and what it gives in another.

Both files are sections, one after the other: a header of 64 bytes (tag of 8 ASCII characters filled up with NUL, u64 bytes of
data, i64 argument, zeros), then the data, filled up with zeros to a multiple of 64. Little-endian. tritium-driver obeys the
sections of a bundle in order, so bundles that are joined make one bundle:

    plan       a binary plan (tritium.ir.encode_plan); argument: blocks of the cache. Begins a program; the one before it ends
    resident   a weight in its native layout, in the plan's order
    arena      what the whole arena shall hold
    cache      what the cache shall hold: of each layer the keys, then the values, bytes (csrc/kernel.h has their order)
    batch      i32 n_tokens n_slots table_width n_outputs top_k, then i32 tokens, positions, slots, block tables, outputs: a step

and writes for each batch, and at a program's end:

    failure    i64 error (0: none, 1: not finite, 2: does not fit the cache), step, row
    logits     f32, row after row, where the batch asks for outputs and not for candidates
    ids        i32 candidates, where it does
    values     f32 likewise
    arena      with --state: what the arena holds
    cache      with --state: what the cache holds
    counters   i64 (…, 7): step, choice, calls, macs, macs skipped, bytes, nanoseconds

Panels are the same for every instruction set and architecture; the kernels that a plan names are not. Plan for another machine
with ``CpuBackend(("neon",))``, or let the driver's --isa put an instruction set's kernels in place of the plan's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tritium.backends import TensorSource, cpu
from tritium.errors import FormatError
from tritium.ir import Plan, encode_plan
from tritium.ops import OPS
from tritium.types import Batch

_HEADER = struct.Struct("<8sQq40x")
_ALIGNMENT = 64


class BundleWriter:
    """Writes a bundle, section after section: a context manager."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")

    def plan(self, binary: bytes, residents: Iterable[NDArray[np.uint8]], kv_blocks: int) -> None:
        """Begin a program: a binary plan with its weights."""
        self._section(b"plan", binary, kv_blocks)
        for resident in residents:
            self._section(b"resident", resident)

    def state(self, arena: NDArray[np.uint8], cache: Iterable[tuple[NDArray[Any], NDArray[Any]]] = ()) -> None:
        """Set the arena and, where layers of (keys, values) are given, the cache."""
        self._section(b"arena", arena)
        halves = [np.ascontiguousarray(half).reshape(-1) for layer in cache for half in layer]
        if halves:
            self._section(b"cache", np.concatenate(halves))

    def batch(self, batch: Batch) -> None:
        """Step the program."""
        warm = np.empty(0, np.float32) if batch.temperatures is None else batch.temperatures.astype("<f4")
        sizes = (len(batch.tokens), *batch.block_tables.shape, len(batch.outputs), batch.top_k, len(warm))
        arrays = (batch.tokens, batch.positions, batch.slots, batch.block_tables, batch.outputs, warm.view("<i4"))
        self._section(
            b"batch", np.concatenate([np.array(sizes, "<i4"), *(a.reshape(-1).astype("<i4") for a in arrays)])
        )

    def _section(self, tag: bytes, data: bytes | NDArray[Any], argument: int = 0) -> None:
        raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        self._file.write(_HEADER.pack(tag, len(raw), argument))
        self._file.write(raw)
        self._file.write(bytes(-len(raw) % _ALIGNMENT))

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def dump_bundle(plan: Plan, source: TensorSource, batches: Iterable[Batch], path: Path, *, kv_blocks: int) -> None:
    """Write a plan of the CPU back end, its weights from an open model file and batches to ``path``.

    Errors: FormatError for a weight that cannot be one.
    """
    with BundleWriter(path) as bundle:
        bundle.plan(encode_plan(plan, OPS), cpu.residents(plan, source, cpu.default_threads()), kv_blocks)
        for batch in batches:
            bundle.batch(batch)


@dataclass(slots=True)
class BatchResult:
    """What a step gave: (error, step, row); flat arrays, None where the driver wrote none."""

    failure: tuple[int, int, int]
    logits: NDArray[np.float32] | None = None
    ids: NDArray[np.int32] | None = None
    values: NDArray[np.float32] | None = None
    arena: NDArray[np.uint8] | None = None
    cache: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class ProgramResult:
    """What the steps of a plan gave, and counters (rows, 7) i64 of each kernel that a step may run."""

    batches: list[BatchResult] = field(default_factory=list)
    counters: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 7), np.int64))


_ARRAYS = {"logits": "<f4", "ids": "<i4", "values": "<f4", "arena": "u1", "cache": "u1"}


def read_results(path: Path) -> Iterator[ProgramResult]:
    """What tritium-driver wrote: program after program. Errors: FormatError for a file that it did not finish."""
    program, open_program = ProgramResult(), False
    for tag, data in _sections(np.fromfile(path, np.uint8), path.name):
        if tag == "failure":
            error, step, row = (int(x) for x in data.view("<i8"))
            program.batches.append(BatchResult((error, step, row)))
            open_program = True
        elif tag == "counters":
            program.counters = data.view("<i8").reshape(-1, 7)
            yield program
            program, open_program = ProgramResult(), False
        elif tag in _ARRAYS and program.batches:
            setattr(program.batches[-1], tag, data.view(_ARRAYS[tag]))
        else:
            raise FormatError("a section out of place", where=path.name, got=tag)
    if open_program:
        raise FormatError("results end before their counters", where=path.name)


def _sections(data: NDArray[np.uint8], where: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    at = 0
    while at < data.size:
        if data.size - at < _HEADER.size:
            raise FormatError("results end in the middle of a section", where=where)
        tag, nbytes, _ = _HEADER.unpack(data[at : at + _HEADER.size].tobytes())
        at += _HEADER.size
        if nbytes > data.size - at:
            raise FormatError("results end in the middle of a section", where=where)
        yield tag.rstrip(b"\0").decode("ascii", "replace"), data[at : at + nbytes]
        at += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
