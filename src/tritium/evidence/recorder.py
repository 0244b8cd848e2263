"""Watch one generation: its clocks, its passes, what the executor counted, what its activations hashed to."""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tritium.errors import NumericsError
from tritium.evidence.trace import note_rows
from tritium.resources import Memory, memory
from tritium.types import StepCount, Trace

if TYPE_CHECKING:
    from tritium.engine.model import Model


@dataclass(slots=True)
class Recorder:
    """Follows one generation: an ``Observer`` of the engine. Make it right before the generation is submitted.

    ``columns`` and ``hidden``: by position, what the trace commits to. ``passes``: (start, end, position, n_tokens, n_batch,
    n_outputs) of every step, nanoseconds of ``time.perf_counter_ns``.
    """

    before: Trace
    start_ns: int = 0
    end_ns: int = 0
    start_utc_ns: int = 0
    end_utc_ns: int = 0
    run_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    nonce: str | None = None
    is_traced: bool = True
    columns: dict[int, bytes] = field(default_factory=dict)
    hidden: dict[int, bytes] = field(default_factory=dict)
    passes: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    usage: tuple[resource.struct_rusage, ...] = ()
    after: Trace | None = None
    held: Memory | None = None

    def begin(self, ns: int) -> None:
        """Note the clocks of the submission."""
        self.start_ns, self.start_utc_ns = ns, time.time_ns()
        self.usage = (resource.getrusage(resource.RUSAGE_SELF),)

    def step(
        self, start_ns: int, end_ns: int, position: int, n_tokens: int, n_batch: int, n_outputs: int,
        columns: bytes, hidden: bytes,
    ) -> None:  # fmt: skip
        """Note one step. Its outputs are those of its last tokens."""
        self.passes.append((start_ns, end_ns, position, n_tokens, n_batch, n_outputs))
        note_rows(self.columns, position, columns)
        note_rows(self.hidden, position + n_tokens - n_outputs, hidden)

    def end(self, trace: Trace) -> None:
        """Note the clocks and counters of the end."""
        self.end_ns, self.end_utc_ns = time.perf_counter_ns(), time.time_ns()
        self.usage = (*self.usage, resource.getrusage(resource.RUSAGE_SELF))
        self.after, self.held = trace, memory()

    def counts(self) -> Trace:
        """What was counted between the two. Errors: NumericsError if other generations ran in the same steps, or none did."""
        after = self.after
        if after is None or not self.passes:
            raise NumericsError("no receipt", where="the run", expected="a finished generation", got="none")
        counted = after.since(self.before)
        if counted.n_steps != len(self.passes) or counted.n_tokens != sum(p[3] for p in self.passes):
            raise NumericsError("no receipt", where="the run", expected="no other generation beside it", got="several")
        return Trace(counted.n_steps, counted.n_tokens, counted.wall_ns, _merged(c for c in counted.counts if c.calls))


def _merged(counts: Iterable[StepCount]) -> tuple[StepCount, ...]:
    """One row for each step name and kernel: a back end without fusion runs several steps of one name in a layer."""
    rows: dict[tuple[str, str], StepCount] = {}
    for c in counts:
        have = rows.get((c.step, c.kernel))
        if have is not None:
            c = StepCount(c.step, c.kernel, have.calls + c.calls, have.macs + c.macs, have.macs_skipped + c.macs_skipped,
                          have.bytes + c.bytes, have.ns + c.ns)  # fmt: skip
        rows[c.step, c.kernel] = c
    return tuple(rows.values())


def recorder(model: Model, nonce: str | None = None) -> Recorder:
    """A recorder of the next generation of this model; ``nonce`` is what a verifier sent."""
    return Recorder(model.engine.executor.trace(), nonce=nonce)
