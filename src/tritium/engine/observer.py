"""Be told how generations go: which tokens went through which steps, and what they hashed to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tritium.types import StepResult, Trace


class Observer(Protocol):
    """Is told how one generation went, on the clock of ``time.perf_counter_ns``; its methods must be quick.

    ``begin``: the submission. ``step``: a step forwarded ``n_tokens`` of its tokens from ``position`` on, and computed
    ``n_outputs`` rows of logits; ``columns`` and ``hidden`` are their hashes, 32 bytes a token and an output, where
    ``is_traced`` asks for them. ``end``: the last token is chosen; what the executor has counted up to here.
    """

    is_traced: bool

    def begin(self, ns: int) -> None: ...

    def step(
        self, start_ns: int, end_ns: int, position: int, n_tokens: int, n_outputs: int, columns: bytes, hidden: bytes
    ) -> None: ...

    def end(self, trace: Trace) -> None: ...


class Watchable(Protocol):
    """What takes part in a step: a generation."""

    @property
    def n_computed(self) -> int: ...

    @property
    def observer(self) -> Observer | None: ...


def observe(
    parts: Sequence[tuple[Watchable, int]], outputs: Sequence[tuple[int, Watchable]], result: StepResult,
    start: int, end: int,
) -> None:  # fmt: skip
    """Tell observers of a step, before it is committed: positions are those that it began with."""
    row = 0
    for generation, n in parts:
        if generation.observer is not None:
            rows = [i for i, other in outputs if other is generation]
            columns = b"" if result.columns is None else result.columns[row : row + n].tobytes()
            hidden = b"" if result.hidden is None else result.hidden[rows].tobytes()
            generation.observer.step(start, end, generation.n_computed, n, len(rows), columns, hidden)
        row += n
