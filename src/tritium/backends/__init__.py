"""Back ends: what runs a plan. One file each, its name in ``BACKENDS``; the file's ``backend()`` makes the Backend."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tritium.errors import UnsupportedError
from tritium.ir import Plan
from tritium.types import Batch, StepResult, TensorInfo, Trace, TraceLevel

if TYPE_CHECKING:
    from tritium.backends.packed import PackedStore

BACKENDS = ("cpu", "reference", "null")

DEVICES: dict[str, str] = {"auto": "cpu", "cpu": "cpu"}


@dataclass(frozen=True, slots=True)
class KernelRow:
    """A kernel that a back end offers for t_min ≤ T ≤ t_max (0: unbounded) rows."""

    id: str
    t_min: int
    t_max: int


class TensorSource(Protocol):
    """Where weights come from: an open model file."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def data(self, name: str) -> NDArray[np.uint8]: ...

    def scale(self, name: str) -> np.float32 | None:
        """The scale that all weights of a ternary tensor share, or None where groups of them differ."""
        ...


class Program(Protocol):
    """A plan with its weights and cache in memory, ready to step."""

    n_threads: int

    def step(self, batch: Batch, trace: TraceLevel = "off") -> StepResult: ...

    def counts(self) -> Trace:
        """Steps, tokens, wall nanoseconds, and a row for each kernel that a plan step may run."""
        ...

    def reset_counts(self) -> None: ...

    def copy_block(self, source: int, target: int) -> None: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """What a planner asks. ``fused`` names what the back end runs in one step beyond the plain ops:

    the fused ops of the op table, "stacked" (linears of one input as one) and "accumulate" (a linear that adds to its output).
    """

    name: str
    fused: frozenset[str]
    panel_rows: int
    """Rows of a matrix are padded to a multiple of this in memory."""

    def kernels(self, op: str, layout: str, attrs: Mapping[str, float]) -> tuple[KernelRow, ...]:
        """Kernels for an op on a resident layout, together covering every T. UnsupportedError if there are none."""
        ...

    def resident_layout(self, op: str, file_layout: str) -> str:
        """The layout in which an op other than linear wants a weight of this file layout in memory."""
        ...

    def linear_layout(self, file_layout: str, n: int, k: int, weight_layout: str, *, group: int = 0) -> str:
        """The layout in memory of a linear's matrix (n, k) of this file layout.

        ``weight_layout``: "auto" (the quicker one), "2bit", "1.6bit". ``group``: weights of a row that share a scale, 0 for all.
        UnsupportedError for one that the back end does not have.
        """
        ...

    def resident_bytes(self, layout: str, rows: int, cols: int) -> int: ...

    def head_plane(self, file_layout: str, vocab: int, k: int, head_screen: str) -> str | None:
        """The layout of a plane that screens a head of this layout, or None to read the head itself.

        ``head_screen``: "auto" (where it pays), "on" (wherever it can be), "off". UnsupportedError for "on" where it cannot.
        """
        ...

    def sparse_layout(self, file_layout: str, n: int, k: int, *, by_columns: bool, ffn_sparsity: str) -> str | None:
        """The layout of a matrix (n, k) of this file layout of whose columns, or rows, each token multiplies only what it needs.

        ``ffn_sparsity``: "auto" (where it pays) or "on" (wherever it can be). None: all of the matrix is multiplied.
        """
        ...

    def program(
        self, plan: Plan, binary: bytes, source: TensorSource, n_threads: int | None, kv_blocks: int,
        store: PackedStore | None = None,
    ) -> Program:  # fmt: skip
        """Put weights in place; those that have to be packed are kept in ``store``, where there is one."""
        ...


def refuse_screen(head_screen: str, where: str) -> None:
    """Raise UnsupportedError if a screen that cannot be is asked for."""
    if head_screen == "on":
        raise UnsupportedError("the head cannot be screened", where=where, hint="Leave --head-screen at auto")


def refuse_layout(weight_layout: str, where: str) -> None:
    """Raise UnsupportedError if a layout of panels is asked for where weights stay as they are in the file."""
    if weight_layout != "auto":
        raise UnsupportedError(
            "no choice of layouts", where=where, got=weight_layout, hint="Leave --weight-layout at auto"
        )


def find(name: str) -> Backend:
    """The back end of this name."""
    if name not in BACKENDS:
        raise UnsupportedError("unknown back end", expected=" or ".join(BACKENDS), got=name)
    module: Any = importlib.import_module(f"{__name__}.{name}")
    made: Backend = module.backend()
    return made


def find_tuned(name: str, threads: int | None) -> Backend:
    """The back end of this name; one that chooses by times has those of this machine with so many threads (None: its default)."""
    if name != "cpu":
        return find(name)
    from tritium.backends import cpu

    return cpu.CpuBackend(tuner=cpu.tuner(threads or cpu.default_threads()))


def resolve(device: str = "auto", backend: str | None = None) -> str:
    """The back end's name for a device: ``backend`` when given, else the device's own."""
    if backend is not None:
        if backend not in BACKENDS:
            raise UnsupportedError("unknown back end", expected=" or ".join(BACKENDS), got=backend)
        return backend
    if device not in DEVICES:
        raise UnsupportedError("unknown device", expected=" or ".join(DEVICES), got=device)
    return DEVICES[device]
