"""Forward sequences through an executor in any cut and mix, and hash what comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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


def sha256(logits: Sequence[NDArray[np.float32]]) -> str:
    """SHA-256 of the logits' bytes, sequence after sequence."""
    digest = hashlib.sha256()
    for part in logits:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
