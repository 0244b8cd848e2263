"""The promise on another architecture: the core cross-compiled for Arm, under an emulator, gives the bits that x86 gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from driver_runs import MODELS, Command, arm_driver, check_golden_bits, drive, dump, instruction_sets
from forwarding import token_sequences
from kernel_checks import cases_of, check
from tiny_models import write_tiny
from tritium.backends.cpu import CpuBackend
from tritium.bundle import BundleWriter, ProgramResult, read_results
from tritium.executor import Executor
from tritium.formats.gguf import open_gguf
from tritium.ir import Plan, encode_plan
from tritium.kernel_table import TableRow, kernel_table
from tritium.models import build_graph
from tritium.ops import OPS, cache_of
from tritium.plan import make_plan
from tritium.types import Batch

I32 = NDArray[np.int32]

ISAS = ("neoni8mm", "neondot", "neon")
pytestmark = pytest.mark.timeout(900)  # the first test builds, and an emulator is slow


@pytest.fixture(scope="module")
def driver() -> Command:
    return arm_driver()


def test_the_instruction_sets_pass_their_self_test(driver: Command) -> None:
    assert {name: status for name, status in instruction_sets(driver).items() if status != "not compiled"} == {
        "neoni8mm": "ok", "neondot": "ok", "neon": "ok", "scalar": "ok"
    }  # fmt: skip


@pytest.mark.parametrize(("cpu", "lacking"), [("cortex-a53", {"neondot", "neoni8mm"}), ("cortex-a76", {"neoni8mm"})])
def test_older_processors_are_told_apart(driver: Command, cpu: str, lacking: set[str]) -> None:
    status = instruction_sets((driver[0], "-cpu", cpu, *driver[1:]))
    assert {name for name in (*ISAS, "scalar") if status[name] == "cpu lacks it"} == lacking
    assert {name for name in (*ISAS, "scalar") if status[name] == "ok"} == {*ISAS, "scalar"} - lacking


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("isa", [*ISAS, "scalar"])
def test_every_instruction_set_gives_the_golden_bits(driver: Command, name: str, isa: str, tmp_path: Path) -> None:
    check_golden_bits(driver, name, isa, tmp_path)


def test_baseline_code_and_candidates_agree_with_this_machine(driver: Command, tmp_path: Path) -> None:
    """One bundle, planned for this machine, on another's kernels: same candidates, same work counted."""
    with open_gguf(write_tiny(tmp_path / "model.gguf", "relu2_gqa_tied_chat")) as file:
        graph = build_graph(file)
        plan = make_plan(graph, CpuBackend(), max_tokens=64)
        tokens = token_sequences(graph.config.vocab_size, (50,))[0]
        batches = [
            Batch(
                tokens=tokens[a:b], positions=np.arange(a, b, dtype=np.int32), slots=np.zeros(b - a, np.int32),
                block_tables=np.array([[1, 0]], np.int32), outputs=np.array(outputs, np.int32), top_k=7,
            )
            for a, b, outputs in ((0, 40, [0, 17, 39]), (40, 41, []), (41, 50, [8]))
        ]  # fmt: skip
        bundle = dump(plan, file, batches, tmp_path / "model.bundle")
        with Executor(plan, file, n_threads=2, kv_blocks=2) as executor:
            ours = [(r.ids.copy(), r.values.copy()) if r.ids is not None and r.values is not None else None
                    for r in map(executor.step, batches)]  # fmt: skip
            counts = [(c.calls, c.macs, c.macs_skipped, c.bytes) for c in executor.trace().counts]
    for isa in ("neon", "scalar"):
        (result,) = read_results(drive(driver, bundle, "--isa", isa, "--threads", "2"))
        assert [tuple(row[2:6]) for row in result.counters.tolist()] == counts
        for mine, theirs in zip(ours, result.batches, strict=True):
            if mine is None:
                assert theirs.ids is None
            else:
                assert theirs.ids is not None
                assert theirs.values is not None
                assert (theirs.ids == mine[0].reshape(-1)).all()
                assert theirs.values.tobytes() == mine[1].tobytes()


class Waiting(Exception):  # noqa: N818
    """A case's step is written down; what it gives comes later."""


@dataclass
class Request:
    """Stands where the native program's request stands."""

    tokens: I32
    positions: I32
    slots: I32
    tables: I32
    outputs: I32
    top_k: int
    logits: None
    ids: I32 | None
    values: NDArray[np.float32] | None
    temperatures: NDArray[np.float32] | None = None
    rest: NDArray[np.float32] | None = None

    def batch(self) -> Batch:
        """The same as a batch."""
        return Batch(self.tokens, self.positions, self.slots, self.tables, self.outputs, self.top_k, self.temperatures)


class Program:
    """Stands where the native program stands: writes its step into a bundle, or gives what the driver made of it."""

    def __init__(
        self, plan: Plan, weights: list[NDArray[np.uint8]], kv_blocks: int, *,
        bundle: BundleWriter | None = None, result: ProgramResult | None = None,
    ) -> None:  # fmt: skip
        self._bundle, self._result = bundle, result
        self._plan, self._weights, self._kv_blocks = plan, weights, kv_blocks
        self._arena = np.zeros(plan.arena_bytes, np.uint8)
        shape = (kv_blocks, plan.n_kv_heads)
        if cache_of(step.op for step in plan.steps) == "int8":
            self._keys, self._values = (
                np.zeros((*shape, (plan.head_dim + 4) * plan.kv_block), np.uint8) for _ in range(2)
            )
        else:
            self._keys = np.zeros((*shape, plan.head_dim, plan.kv_block), np.uint16)
            self._values = np.zeros((*shape, plan.kv_block, plan.head_dim), np.uint16)
        self._counters: list[list[int]] = []
        self._failure = (0, -1, -1)

    def arena(self) -> NDArray[np.uint8]:
        return self._arena

    def buffer(self, index: int) -> NDArray[Any]:
        b = self._plan.buffers[index]
        dtype = np.dtype({"f32": np.float32, "i8": np.int8, "i32": np.int32}[b.dtype])
        return (
            self._arena[b.offset :][: self._plan.max_tokens * b.width * dtype.itemsize].view(dtype).reshape(-1, b.width)
        )

    def kv(self, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._keys, self._values

    def failure(self) -> tuple[str, int, int]:
        return ("none", "not_finite", "kv_overflow")[self._failure[0]], *self._failure[1:]

    def counters(self) -> list[list[int]]:
        return self._counters

    def step(self, request: Request) -> int:
        if self._bundle is not None:
            self._bundle.plan(encode_plan(self._plan, OPS), self._weights, self._kv_blocks)
            self._bundle.state(self._arena, [(self._keys, self._values)] if self._plan.n_kv_layers else ())
            self._bundle.batch(request.batch())
            raise Waiting
        assert self._result is not None
        (given,) = self._result.batches
        assert given.arena is not None
        assert given.cache is not None
        self._arena[:] = given.arena
        if self._plan.n_kv_layers:
            for kept, half in zip((self._keys, self._values), np.split(given.cache, 2), strict=True):
                kept.reshape(-1)[:] = half.view(kept.dtype)
        ids, values = request.ids, request.values
        if ids is not None and values is not None and given.ids is not None and given.values is not None:
            ids.reshape(-1)[:], values.reshape(-1)[:] = given.ids, given.values
        self._failure, self._counters = given.failure, self._result.counters.tolist()
        return self._failure[0]


@pytest.mark.parametrize("row", [row for row in kernel_table() if row.isa in ISAS], ids=lambda row: row.id)
def test_a_kernel_gives_the_bits_of_the_profile(driver: Command, row: TableRow, tmp_path: Path) -> None:
    """The cases of test_kernels.py, all in one run of the driver."""
    cases, path = cases_of(row), tmp_path / "kernel.bundle"
    with BundleWriter(path) as bundle:
        for case in cases:
            with pytest.raises(Waiting):
                check(
                    row,
                    case,
                    1,
                    lambda plan, weights, blocks, _: Program(plan, weights, blocks, bundle=bundle),
                    Request,
                )
    results = read_results(drive(driver, path, "--threads", "2", "--state"))
    for case, result in zip(cases, results, strict=True):
        wrong = check(
            row, case, 1, lambda plan, weights, blocks, _, r=result: Program(plan, weights, blocks, result=r), Request
        )  # fmt: skip
        assert wrong is None, f"{case.label}: {wrong}"
