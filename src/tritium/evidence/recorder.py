"""Watch generations: their clocks, their passes, what the executor counted, what their activations hashed to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tritium.errors import NumericsError
from tritium.evidence.trace import note_rows
from tritium.resources import Memory, Usage, memory, usage
from tritium.types import Trace

if TYPE_CHECKING:
    from tritium.engine.generation import GenerationResult
    from tritium.engine.model import Model


@dataclass(slots=True)
class Recorder:
    """Follows one generation: an ``Observer`` of the engine. Make it right before the generation is submitted.

    ``columns`` and ``hidden``: by position, what the trace commits to. ``passes``: (start, end, position, n_tokens, n_outputs) of
    every step, nanoseconds of ``time.perf_counter_ns``.
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
    passes: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    usage: tuple[Usage, ...] = ()
    after: Trace | None = None
    held: Memory | None = None

    def begin(self, ns: int) -> None:
        """Note the clocks of the submission."""
        self.start_ns, self.start_utc_ns = ns, time.time_ns()
        self.usage = (usage(),)

    def step(
        self, start_ns: int, end_ns: int, position: int, n_tokens: int, n_outputs: int, columns: bytes, hidden: bytes
    ) -> None:
        """Note one step. Its outputs are those of its last tokens."""
        self.passes.append((start_ns, end_ns, position, n_tokens, n_outputs))
        note_rows(self.columns, position, columns)
        note_rows(self.hidden, position + n_tokens - n_outputs, hidden)

    def end(self, trace: Trace) -> None:
        """Note the clocks and counters of the end."""
        self.end_ns, self.end_utc_ns = time.perf_counter_ns(), time.time_ns()
        self.usage = (*self.usage, usage())
        self.after, self.held = trace, memory()


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of one sequence in a pass: ``n_tokens`` from ``position`` on, ``n_outputs`` rows of logits after them."""

    sequence: int
    position: int
    n_tokens: int
    n_outputs: int


@dataclass(frozen=True, slots=True)
class RecordedPass:
    """A pass of the executor with the tokens of one sequence or of several."""

    start_ns: int
    end_ns: int
    parts: tuple[Part, ...]


class RecordedRun:
    """One run: the recorders of all sequences that were submitted together, read as a whole once they have ended.

    Errors: NumericsError if one has not, or forwarded nothing.
    """

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        if not recorders or any(r.after is None or not r.passes for r in recorders):
            raise NumericsError("no receipt", where="the run", expected="a finished generation", got="none")
        self.recorders = tuple(recorders)
        self.last = max(recorders, key=lambda r: r.end_ns)
        first = recorders[0]
        self.start_ns, self.end_ns = first.start_ns, self.last.end_ns
        self.start_utc_ns, self.end_utc_ns = first.start_utc_ns, self.last.end_utc_ns
        self.usage = (first.usage[0], self.last.usage[-1])
        parts: dict[tuple[int, int], list[Part]] = {}
        for number, r in enumerate(recorders):
            for start, end, *rest in r.passes:
                parts.setdefault((start, end), []).append(Part(number, *rest))
        self.passes = tuple(RecordedPass(*span, tuple(parts[span])) for span in sorted(parts))

    def counts(self) -> Trace:
        """What was counted from the first submission to the last token.

        Errors: NumericsError if other generations ran in the same steps.
        """
        assert self.last.after is not None
        counted = self.last.after.since(self.recorders[0].before)
        n_tokens = sum(part.n_tokens for p in self.passes for part in p.parts)
        if (counted.n_steps, counted.n_tokens) != (len(self.passes), n_tokens):
            raise NumericsError("no receipt", where="the run", expected="no other generation beside it", got="several")
        return _merged(counted)

    def times(self, results: Sequence[GenerationResult]) -> list[list[int]]:
        """Nanoseconds from the first submission to each token of each sequence."""
        return [list(accumulate(r.token_ns, initial=r.start_ns - self.start_ns))[1:] for r in results]

    def sample_ns(self, times: Sequence[Sequence[int]]) -> int:
        """Nanoseconds from the ends of passes to the last of the tokens that were chosen from each."""
        rows = [iter(each) for each in times]
        total = 0
        for p in self.passes:
            chosen = [next(rows[part.sequence]) for part in p.parts for _ in range(part.n_outputs)]
            total += max(chosen) - (p.end_ns - self.start_ns) if chosen else 0
        return total


def _merged(trace: Trace) -> Trace:
    """One row for each step name and kernel that ran: a back end without fusion runs several steps of one name in a layer."""
    rows: dict[tuple[str, str], NDArray[np.int64]] = {}
    for names, values in zip(trace.kernels, trace.values, strict=True):
        if values[0]:
            rows[names] = rows[names] + values if names in rows else values
    return replace(trace, kernels=list(rows), values=np.array(list(rows.values()), np.int64).reshape(-1, 5))


def recorder(model: Model, nonce: str | None = None) -> Recorder:
    """A recorder of the next generation of this model; ``nonce`` is what a verifier sent."""
    return Recorder(model.engine.counted(), nonce=nonce)
