"""Forward sequences through an executor in any cut and mix, and hash what comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tritium.engine.kv import BlockTable, KVCache, blocks_for
from tritium.executor import Executor
from tritium.types import Batch

I32 = NDArray[np.int32]


def token_sequences(vocab_size: int, lengths: Sequence[int], seed: int = 5) -> list[I32]:
    """Sequences of token ids from PCG64's raw output, which NumPy keeps stable."""
    bits = np.random.PCG64(seed)
    return [(np.asarray(bits.random_raw(n)) % np.uint64(vocab_size)).astype(np.int32) for n in lengths]


def forward(
    executor: Executor, sequences: Sequence[I32], chunk: int | None, mix: int | None = None
) -> list[NDArray[np.float32]]:
    """Logits of every token of every sequence.

    Each step takes up to ``chunk`` tokens (None: all) of one sequence after the other, or with ``mix`` random amounts of all
    sequences together in random order. The sequences' cache blocks are interleaved, so that tables matter.
    """
    rng = np.random.default_rng(mix)
    size, n = executor.plan.kv_block, len(sequences)
    width = max(-(-len(s) // size) for s in sequences)
    tables = np.arange(n * width, dtype=np.int32).reshape(width, n).T[:, ::-1]
    done, logits = [0] * n, [np.empty((len(s), executor.plan.vocab_size), np.float32) for s in sequences]
    while any(done[i] < len(s) for i, s in enumerate(sequences)):
        waiting = [i for i, s in enumerate(sequences) if done[i] < len(s)]
        picked = waiting[:1] if mix is None else list(rng.permutation(waiting))
        room = min(chunk or executor.plan.max_tokens, executor.plan.max_tokens, executor.plan.max_outputs)
        parts = []
        for i in picked:
            left = min(len(sequences[i]) - done[i], room)
            take = left if mix is None else int(rng.integers(0, left + 1))
            if take:
                parts.append((i, done[i], done[i] + take))
                room -= take
        if not parts:
            continue
        tokens = np.concatenate([sequences[i][a:b] for i, a, b in parts])
        batch = Batch(
            tokens=tokens,
            positions=np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in parts]),
            slots=np.concatenate([np.full(b - a, i, np.int32) for i, a, b in parts]),
            block_tables=np.ascontiguousarray(tables),
            outputs=np.arange(len(tokens), dtype=np.int32),
        )
        result = executor.step(batch).logits
        assert result is not None
        row = 0
        for i, a, b in parts:
            logits[i][a:b] = result[row : row + b - a]
            done[i], row = b, row + b - a
    return logits


def related_sequences(vocab_size: int, lengths: Sequence[int], shared: Sequence[int]) -> list[I32]:
    """Token sequences of which the i-th begins with the first ``shared[i]`` tokens of the first one."""
    own = token_sequences(vocab_size, lengths)
    return [np.concatenate([own[0][:n], s[n:]]) for s, n in zip(own, shared, strict=True)]


class Mix:
    """Sequences on their way through an executor, up to ``batch`` at a time, in random order and random company.

    A step takes up to ``chunk`` tokens (None: all) of each. With ``reuse`` a sequence starts from what the cache holds of its
    beginning: whole blocks by the prefix index, or a fork of a running sequence, which copies a block shared in part.
    """

    def __init__(
        self, executor: Executor, sequences: Sequence[I32], *, chunk: int | None, batch: int, reuse: bool, seed: int
    ) -> None:
        plan = executor.plan
        self.executor, self.sequences = executor, sequences
        self.batch, self.reuse = batch, reuse
        self.room = min(plan.max_tokens, plan.max_outputs)
        self.chunk = min(chunk or self.room, self.room)
        self.rng = np.random.default_rng(seed)
        self.cache = KVCache(executor.kv_blocks, batch, plan.max_context, executor.copy_block, reuse=reuse)
        self.running: dict[int, BlockTable] = {}
        self.done = [0] * len(sequences)
        self.logits = [np.full((len(s), plan.vocab_size), np.nan, np.float32) for s in sequences]
        self.n_reused = 0

    def run(self) -> list[NDArray[np.float32]]:
        """Logits of every token of every sequence; those of reused positions are the ones that were computed for them."""
        waiting = [int(i) for i in self.rng.permutation(len(self.sequences))]
        while waiting or self.running:
            while waiting and len(self.running) < self.batch:
                self._admit(waiting.pop())
                if self.reuse:
                    break  # who comes a step later finds something in the cache
            self._step()
        return self.logits

    def _common(self, i: int, j: int) -> int:
        """Computed positions of j that i begins with; at least the last token of i is left to forward."""
        n = min(len(self.sequences[i]) - 1, self.done[j])
        same = self.sequences[i][:n] == self.sequences[j][:n]
        return n if same.all() else int(same.argmin())

    def _admit(self, i: int) -> None:
        sequence, table = self.sequences[i], None
        donors = [j for j in self.running if self._common(i, j)] if self.reuse else []
        if donors and self.rng.random() < 0.5:
            donor = max(donors, key=lambda j: self._common(i, j))
            n = self._common(i, donor)
            table = self.cache.fork(self.running[donor], n, len(sequence))
        else:
            opened = self.cache.open(sequence, len(sequence))
            assert opened is not None
            table, n = opened
            donor = next(j for j in range(len(self.sequences)) if self._common(i, j) >= n)
        assert table is not None
        self.logits[i][:n] = self.logits[donor][:n]
        self.n_reused += n
        self.done[i], self.running[i] = n, table

    def _step(self) -> None:
        parts, room = [], self.room
        for i in (int(i) for i in self.rng.permutation(list(self.running))):
            take = min(len(self.sequences[i]) - self.done[i], self.chunk, room)
            if self.batch > 1 and self.rng.random() < 0.5:
                take = int(self.rng.integers(0, take + 1))
            if take:
                parts.append((i, self.done[i], self.done[i] + take))
                room -= take
        if not parts:
            return
        tokens = np.concatenate([self.sequences[i][a:b] for i, a, b in parts])
        batch = Batch(
            tokens=tokens,
            positions=np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in parts]),
            slots=np.concatenate([np.full(b - a, self.running[i].slot, np.int32) for i, a, b in parts]),
            block_tables=self.cache.tables,
            outputs=np.arange(len(tokens), dtype=np.int32),
        )
        result = self.executor.step(batch).logits
        assert result is not None
        row = 0
        for i, a, b in parts:
            self.logits[i][a:b] = result[row : row + b - a]
            self.done[i], row = b, row + b - a
            self.cache.seal(self.running[i], self.sequences[i], b)
            if b == len(self.sequences[i]):
                self.cache.close(self.running.pop(i))


def blocks_of(sequences: Sequence[I32]) -> int:
    """Cache blocks that hold all sequences at once, nothing shared."""
    return sum(blocks_for(len(s)) for s in sequences)


def sha256(logits: Sequence[NDArray[np.float32]]) -> str:
    """SHA-256 of the logits' bytes, sequence after sequence."""
    digest = hashlib.sha256()
    for part in logits:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
