"""The executor: a plan, its weights and its cache on a back end, one call a step."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tritium import backends
from tritium.backends import TensorSource
from tritium.errors import ShapeError, UnsupportedError
from tritium.ir import Plan, encode_plan
from tritium.numerics import F32
from tritium.ops import OPS
from tritium.types import Batch, StepResult, Trace, TraceLevel

if TYPE_CHECKING:
    from tritium.backends.packed import PackedStore


class Executor:
    """Runs steps of a plan.

    ``source`` is the open model file; it must stay open. ``kv_blocks`` blocks of ``plan.kv_block`` positions are allocated.
    ``store`` keeps weights that have to be packed for the next time. ``weigh``: the back end's own way to the integer
    weights of a draw, where it has one. ``forward`` is ``step`` of batches that are known to be within the plan's limits.
    Errors: UnsupportedError, FormatError while weights are put in place.
    """

    def __init__(
        self, plan: Plan, source: TensorSource, *, n_threads: int | None = None, kv_blocks: int,
        store: PackedStore | None = None,
    ) -> None:  # fmt: skip
        if kv_blocks < 1:
            raise ShapeError("the cache needs a block", expected="kv_blocks of at least 1", got=kv_blocks)
        self.plan = plan
        self.kv_blocks = kv_blocks
        self.knocked_out: str | None = None
        binary = encode_plan(plan, OPS)
        self._program = backends.find(plan.backend).program(plan, binary, source, n_threads, kv_blocks, store)
        self.forward = self._program.step
        self.weigh: Callable[[F32, float, float], NDArray[np.int64]] | None = getattr(self._program, "weigh", None)

    @property
    def n_threads(self) -> int:
        """Threads that a step uses, the caller's included."""
        return self._program.n_threads

    def step(self, batch: Batch, trace: TraceLevel = "off") -> StepResult:
        """Forward the batch's tokens; their keys and values enter the cache. ``trace`` asks for hashes beside the results.

        Errors: ShapeError for a batch beyond the plan's limits; NumericsError for activations that are not finite, or a key or
        value beyond float16. After a NumericsError the batch's sequences must be given up.
        """
        if not 0 < len(batch.tokens) <= self.plan.max_tokens:
            raise ShapeError("tokens of a step", expected=f"1 to {self.plan.max_tokens}", got=len(batch.tokens))
        if len(batch.outputs) > self.plan.max_outputs:
            raise ShapeError("outputs of a step", expected=f"up to {self.plan.max_outputs}", got=len(batch.outputs))
        if not 0 <= batch.top_k <= self.plan.vocab_size:
            raise ShapeError("candidates", expected=f"0 to {self.plan.vocab_size}", got=batch.top_k)
        return self.forward(batch, trace)

    def trace(self) -> Trace:
        """What was counted since the start or the last reset."""
        return self._program.counts()

    def reset_trace(self) -> None:
        """Set all counters to zero."""
        self._program.reset_counts()

    def knock_out(self, kernel: str | None) -> None:
        """Let a kernel do nothing, for experiments on what a run depends on; None brings it back. No receipt comes of such runs.

        Errors: UnsupportedError for a kernel that is not in the plan, or a back end whose kernels cannot be taken away.
        """
        take = getattr(self._program, "knock_out", None)
        if take is None:
            raise UnsupportedError("kernels cannot be knocked out", where=f"back end {self.plan.backend}")
        take(kernel)
        self.knocked_out = kernel

    def copy_block(self, source: int, target: int) -> None:
        """Copy a cache block in all layers: a shared block that a sequence is about to write."""
        self._program.copy_block(source, target)

    def close(self) -> None:
        """Release weights, cache and threads."""
        self._program.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def single_sequence(
    tokens: np.ndarray[tuple[int], np.dtype[np.int32]], start: int, table: np.ndarray[tuple[int], np.dtype[np.int32]],
    *, all_outputs: bool, top_k: int = 0,
) -> Batch:  # fmt: skip
    """A batch of one sequence's tokens from position ``start`` on, asking for every row's logits or the last one's."""
    n = len(tokens)
    outputs = np.arange(n, dtype=np.int32) if all_outputs else np.array([n - 1], np.int32)
    return Batch(
        tokens=np.ascontiguousarray(tokens, np.int32),
        positions=np.arange(start, start + n, dtype=np.int32),
        slots=np.zeros(n, np.int32),
        block_tables=np.ascontiguousarray(table, np.int32).reshape(1, -1),
        outputs=outputs,
        top_k=top_k,
    )
