"""Which tokens of which sequences go into the next step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tritium.engine.kv import BlockTable, KVCache
from tritium.engine.sampling import Sampler
from tritium.errors import ShapeError
from tritium.numerics import KV_BLOCK
from tritium.types import Batch


class Sequence:
    """A prompt and what has been generated after it.

    ``tokens`` (capacity,) i32 holds the first ``n_tokens`` known ones, the prompt's ``n_prompt`` among them; ``n_computed`` of
    them are in the cache, ``n_cached`` of these without having been forwarded. A sequence with the same prompt as
    ``twin`` shares its cache instead of forwarding the prompt again. ``block_end``: the position behind the cache block
    that is being filled.
    """

    # After each step's weights have gone through the caches, what counts is how much memory and how much of the interpreter
    # a token touches: plain attributes, single elements through memory views, comparisons rather than divisions.
    __slots__ = (
        "block_end", "capacity", "is_finished", "n_cached", "n_computed", "n_prompt", "n_tokens", "sampler", "table",
        "token_view", "tokens", "twin",
    )  # fmt: skip

    def __init__(
        self, prompt: NDArray[np.int32], capacity: int, sampler: Sampler, twin: Sequence | None = None
    ) -> None:
        self.n_prompt = self.n_tokens = len(prompt)
        self.tokens = np.zeros(capacity, np.int32)
        self.tokens[: self.n_prompt] = prompt
        self.token_view = self.tokens.data
        self.capacity = capacity
        self.n_computed = self.n_cached = self.block_end = 0
        self.sampler = sampler
        self.twin = twin
        self.table: BlockTable | None = None
        self.is_finished = False

    def append(self, token: int) -> None:
        """Add a generated token."""
        self.token_view[self.n_tokens] = token
        self.n_tokens += 1


S = TypeVar("S", bound=Sequence)


@dataclass(slots=True)
class Work(Generic[S]):
    """One step: the batch, how many tokens of each sequence it holds, and (row, sequence) of its outputs."""

    batch: Batch
    parts: list[tuple[S, int]] = field(default_factory=list)
    outputs: list[tuple[int, S]] = field(default_factory=list)


class Scheduler(Generic[S]):
    """Packs steps: first the next token of every sequence that is being generated, then chunks of prompts.

    A step holds up to ``max_tokens`` tokens; ``chunk`` bounds those of one prompt. Up to ``max_running`` sequences run at a time,
    in the order in which they came. Results do not depend on any of these. The batch's arrays are reused from step to step.
    """

    def __init__(self, cache: KVCache, *, max_tokens: int, max_running: int, chunk: int | None = None) -> None:
        if chunk is not None and chunk < 1:
            raise ShapeError("chunk", expected="at least 1 token", got=chunk)
        if not 1 <= max_running <= max_tokens:
            raise ShapeError("sequences running at a time", expected=f"1 to {max_tokens}", got=max_running)
        self.cache = cache
        self.max_tokens, self.max_running = max_tokens, max_running
        self.chunk = min(chunk or max_tokens, max_tokens)
        self.waiting: deque[S] = deque()
        self.running: list[S] = []
        self._tokens = np.zeros(max_tokens, np.int32)
        self._positions = np.zeros(max_tokens, np.int32)
        self._slots = np.zeros(max_tokens, np.int32)
        self._outputs = np.zeros(max_running, np.int32)
        self._temperatures = np.zeros(max_running, np.float32)
        self._token_view, self._position_view = self._tokens.data, self._positions.data
        self._shape = (0, 0, 0, False)
        self._batch = self._view(*self._shape)
        self._decoding: Work[S] | None = None  # the last step, if the next one is the same with the next tokens

    def add(self, sequence: S) -> None:
        """Queue a sequence. Errors: ShapeError if it can never fit into the cache."""
        self.cache.check_fits(sequence.capacity)
        self.waiting.append(sequence)

    def remove(self, sequence: S) -> None:
        """Forget a sequence and give its cache back."""
        sequence.is_finished = True
        self._decoding = None
        if sequence.table is not None:
            self.running.remove(sequence)
            self.cache.close(sequence.table)
            sequence.table = None
        else:
            self.waiting.remove(sequence)

    def schedule(self) -> Work[S] | None:
        """Pack the next step, or None if there is nothing to do.

        When it has run, each part adds to its ``n_computed``, and a sequence that reached its ``block_end`` is to be sealed.
        """
        if self._decoding is not None and not self.waiting:
            for row, sequence in self._decoding.outputs:
                self._token_view[row] = sequence.token_view[sequence.n_computed]
                self._position_view[row] = sequence.n_computed
            return self._decoding
        while self.waiting and len(self.running) < self.max_running and self._admit(self.waiting[0]):
            self.running.append(self.waiting.popleft())
        if not self.running:
            return None
        work: Work[S] = Work(self._batch)
        n = 0
        for sequence in self.running:
            if sequence.n_tokens - sequence.n_computed == 1:
                n = self._pack(work, sequence, 1, n)
        for sequence in self.running:
            take = min(sequence.n_tokens - sequence.n_computed, self.chunk, self.max_tokens - n)
            if take > 0 and sequence.n_tokens - sequence.n_computed > 1:
                n = self._pack(work, sequence, take, n)
        wanted = [sequence.sampler.n_candidates for _, sequence in work.outputs]
        for row, sequence in work.outputs:
            self._temperatures[row] = sequence.sampler.rest_temperature
        top_k = min(wanted) and max(wanted) if wanted else 1
        shape = (n, len(wanted), top_k, bool(top_k and self._temperatures[: len(wanted)].any()))
        if shape != self._shape:
            self._shape, self._batch = shape, self._view(*shape)
        work.batch = self._batch
        self._decoding = work if n == len(work.outputs) == len(self.running) else None
        return work

    def seal(self, sequence: S) -> None:
        """Let others share the cache blocks that a running sequence has filled."""
        if sequence.table is not None:
            self.cache.seal(sequence.table, sequence.tokens, sequence.n_computed)
        sequence.block_end = (sequence.n_computed // KV_BLOCK + 1) * KV_BLOCK

    def _admit(self, sequence: S) -> bool:
        """Give the sequence its cache, if there is room now."""
        twin = sequence.twin
        if twin is not None and not twin.is_finished:
            # A twin ahead in the queue is running by now; its prompt is worth waiting for.
            if twin.table is None or twin.n_computed < twin.n_prompt - 1:
                return False
            table = self.cache.fork(twin.table, sequence.n_prompt - 1, sequence.capacity)
            if table is None:
                return False
            sequence.table, sequence.n_computed = table, sequence.n_prompt - 1
            sequence.n_cached = sequence.n_computed
            return True
        opened = self.cache.open(sequence.tokens[: sequence.n_prompt], sequence.capacity)
        if opened is None:
            return False
        sequence.table, sequence.n_computed = opened
        sequence.n_cached = sequence.n_computed
        return True

    def _pack(self, work: Work[S], sequence: S, n: int, start: int) -> int:
        """Put the sequence's next ``n`` tokens at ``start`` of the batch; return where the following ones go."""
        first, table = sequence.n_computed, sequence.table
        if table is None:
            raise ShapeError("a running sequence has no cache")
        if n == 1:
            self._token_view[start] = sequence.token_view[first]
            self._position_view[start] = first
            self._slots[start] = table.slot
        else:
            self._tokens[start : start + n] = sequence.tokens[first : first + n]
            self._positions[start : start + n] = np.arange(first, first + n, dtype=np.int32)
            self._slots[start : start + n] = table.slot
        if first + n == sequence.n_tokens:
            row = len(work.outputs)
            self._outputs[row] = start + n - 1
            work.outputs.append((row, sequence))
        work.parts.append((sequence, n))
        return start + n

    def _view(self, n: int, n_outputs: int, top_k: int, needs_rest: bool) -> Batch:
        return Batch(
            tokens=self._tokens[:n],
            positions=self._positions[:n],
            slots=self._slots[:n],
            block_tables=self.cache.tables,
            outputs=self._outputs[:n_outputs],
            top_k=top_k,
            temperatures=self._temperatures[:n_outputs] if needs_rest else None,
        )
