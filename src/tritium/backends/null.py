"""The null back end: plans and steps like the others and computes nothing; what is left is the cost of everything around it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tritium.backends import KernelRow, Program, TensorSource, refuse_layout, refuse_screen
from tritium.ir import Plan
from tritium.layouts import LAYOUTS
from tritium.types import Batch, StepResult, Trace, TraceLevel


class NullBackend:
    """Offers every op under the kernel id ``null``."""

    name = "null"
    fused: frozenset[str] = frozenset()
    panel_rows = 1

    def kernels(self, op: str, layout: str, attrs: Mapping[str, float]) -> tuple[KernelRow, ...]:
        """One row for all."""
        return (KernelRow("null", 1, 0),)

    def resident_layout(self, op: str, file_layout: str) -> str:
        """The file's layout."""
        return file_layout

    def linear_layout(self, file_layout: str, n: int, k: int, weight_layout: str, *, group: int = 0) -> str:
        """The file's layout."""
        refuse_layout(weight_layout, f"back end {self.name}")
        return file_layout

    def resident_bytes(self, layout: str, rows: int, cols: int) -> int:
        """The file's bytes."""
        return int(rows * cols * LAYOUTS[layout].bits) // 8

    def head_plane(self, file_layout: str, vocab: int, k: int, head_screen: str) -> str | None:
        """None: the head is read whole."""
        refuse_screen(head_screen, f"back end {self.name}")
        return None

    def sparse_layout(self, file_layout: str, n: int, k: int, *, by_columns: bool, ffn_sparsity: str) -> str | None:
        """None: matrices are read whole."""
        return None

    def program(
        self, plan: Plan, binary: bytes, source: TensorSource, n_threads: int | None, kv_blocks: int,
        store: object = None,
    ) -> Program:  # fmt: skip
        """A program that answers zeros."""
        return NullProgram(plan)


def backend() -> NullBackend:
    """The back end."""
    return NullBackend()


class NullProgram:
    """Every logit is 0, so every candidate list is 0, 1, 2, …"""

    n_threads = 1

    def __init__(self, plan: Plan) -> None:
        self._vocab_size = plan.vocab_size
        self.reset_counts()

    def step(self, batch: Batch, trace: TraceLevel = "off") -> StepResult:
        """Zeros for every output; there is nothing to trace."""
        self._n_steps += 1
        self._n_tokens += len(batch.tokens)
        n, k = len(batch.outputs), batch.top_k
        if not n:
            return StepResult()
        if not k or batch.temperatures is not None:
            return StepResult(logits=np.zeros((n, self._vocab_size), np.float32))
        ids = np.broadcast_to(np.arange(k, dtype=np.int32), (n, k))
        return StepResult(ids=ids, values=np.zeros((n, k), np.float32))

    def counts(self) -> Trace:
        """Steps and tokens; no kernel ran."""
        return Trace(self._n_steps, self._n_tokens, 0, (), np.zeros((0, 5), np.int64))

    def reset_counts(self) -> None:
        """Set the counters to zero."""
        self._n_steps = self._n_tokens = 0

    def copy_block(self, source: int, target: int) -> None:
        """Nothing to copy."""

    def close(self) -> None:
        """Nothing to release."""
