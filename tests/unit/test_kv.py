"""Blocks of the key-value cache: who owns them, who shares them, and when there are none left."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from tritium.engine.kv import BlockTable, KVCache, block_bytes
from tritium.errors import ShapeError
from tritium.numerics import KV_BLOCK
from tritium.types import ModelConfig


def prompt(n: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 1000, n).astype(np.int32)


class Copies:
    """Records the block copies that a cache asks for."""

    def __init__(self) -> None:
        self.made: list[tuple[int, int]] = []

    def __call__(self, source: int, target: int) -> None:
        self.made.append((source, target))


def cache(n_blocks: int = 8, n_slots: int = 4, max_context: int = 512, *, reuse: bool = True) -> tuple[KVCache, Copies]:
    copies = Copies()
    return KVCache(n_blocks, n_slots, max_context, copies, reuse=reuse), copies


def opened(kv: KVCache, tokens: NDArray[np.int32], n_positions: int) -> tuple[BlockTable, int]:
    result = kv.open(tokens, n_positions)
    assert result is not None
    return result


def test_a_sequence_gets_all_its_blocks_at_once() -> None:
    kv, _ = cache()
    table, n_cached = opened(kv, prompt(10), 3 * KV_BLOCK + 1)
    assert (len(set(table.blocks)), n_cached, kv.n_idle) == (4, 0, 4)
    assert kv.tables[table.slot].tolist() == table.blocks + [0] * 4
    kv.close(table)
    assert kv.n_idle == 8


def test_what_can_never_fit_is_refused_and_what_cannot_fit_now_waits() -> None:
    kv, _ = cache()
    with pytest.raises(ShapeError, match=r"at most 512 tokens, got 513.*kv_budget"):
        kv.open(prompt(3), 513)
    small, _ = cache(n_blocks=2)
    with pytest.raises(ShapeError, match="at most 128 tokens, got 129"):
        small.open(prompt(3), 129)
    first, _ = opened(kv, prompt(3), 6 * KV_BLOCK)
    assert kv.open(prompt(3), 3 * KV_BLOCK) is None
    second, _ = opened(kv, prompt(3), 2 * KV_BLOCK)
    assert not set(first.blocks) & set(second.blocks)
    kv.close(first)
    assert kv.open(prompt(3), 3 * KV_BLOCK) is not None


def test_slots_run_out_before_blocks() -> None:
    kv, _ = cache(n_slots=2)
    tables = [opened(kv, prompt(3), 5)[0] for _ in range(2)]
    assert {table.slot for table in tables} == {0, 1}
    assert kv.open(prompt(3), 5) is None
    kv.close(tables[1])
    assert opened(kv, prompt(3), 5)[0].slot == 1


def test_a_common_prefix_is_shared_in_whole_blocks() -> None:
    kv, _ = cache()
    tokens = prompt(3 * KV_BLOCK)
    first, _ = opened(kv, tokens, 200)
    kv.seal(first, tokens, 2 * KV_BLOCK + 5)
    # The last token is always left to forward, so of three full blocks at most two can be taken over.
    second, n_cached = opened(kv, tokens, 200)
    assert n_cached == 2 * KV_BLOCK
    assert second.blocks[:2] == first.blocks[:2]
    assert second.blocks[2:] != first.blocks[2:]
    other = tokens.copy()
    other[KV_BLOCK + 3] += 1
    third, n_cached = opened(kv, other, 100)
    assert (n_cached, third.blocks[0]) == (KV_BLOCK, first.blocks[0])
    for table in (first, second, third):
        kv.close(table)
    assert kv.n_idle == 8


def test_blocks_equal_in_themselves_but_not_in_what_precedes_them_are_not_shared() -> None:
    kv, _ = cache()
    tail = prompt(KV_BLOCK, 5)
    one, other = (
        np.concatenate([prompt(KV_BLOCK, 1), tail, tail[:1]]),
        np.concatenate([prompt(KV_BLOCK, 2), tail, tail]),
    )
    table, _ = opened(kv, one, 150)
    kv.seal(table, one, 2 * KV_BLOCK)
    assert opened(kv, other, 150)[1] == 0


def test_a_prefix_survives_its_owner_until_its_place_is_needed() -> None:
    kv, _ = cache(n_blocks=4)
    tokens = prompt(3 * KV_BLOCK)
    table, _ = opened(kv, tokens, 3 * KV_BLOCK)
    kv.seal(table, tokens, 3 * KV_BLOCK)
    blocks = list(table.blocks)
    kv.close(table)
    again, n_cached = opened(kv, tokens, 3 * KV_BLOCK)
    assert (n_cached, again.blocks[:2]) == (2 * KV_BLOCK, blocks[:2])
    kv.close(again)
    stranger, n_cached = opened(kv, prompt(9, 7), 3 * KV_BLOCK)
    # The stranger took the block that nobody knew and then the ends of the prefix; its beginning is still there.
    assert n_cached == 0
    assert blocks[0] not in stranger.blocks
    kv.close(stranger)
    assert opened(kv, tokens, 100)[1] == KV_BLOCK


def test_without_reuse_nothing_is_shared() -> None:
    kv, _ = cache(reuse=False)
    tokens = prompt(200)
    table, _ = opened(kv, tokens, 200)
    kv.seal(table, tokens, 200)
    kv.close(table)
    assert opened(kv, tokens, 200)[1] == 0


def test_a_fork_shares_full_blocks_and_copies_the_partial_one() -> None:
    kv, copies = cache()
    tokens = prompt(KV_BLOCK + 20)
    parent, _ = opened(kv, tokens, 2 * KV_BLOCK)
    kv.seal(parent, tokens, len(tokens))
    child = kv.fork(parent, KV_BLOCK + 19, 3 * KV_BLOCK)
    assert child is not None
    assert child.blocks[0] == parent.blocks[0]
    assert copies.made == [(parent.blocks[1], child.blocks[1])]
    assert child.blocks[1] != parent.blocks[1]
    kv.close(parent)
    assert kv.n_idle == 8 - 3
    kv.close(child)
    assert kv.n_idle == 8


def test_a_fork_at_a_block_border_copies_nothing_and_one_without_room_waits() -> None:
    kv, copies = cache(n_blocks=4)
    parent, _ = opened(kv, prompt(9), 2 * KV_BLOCK)
    assert kv.fork(parent, KV_BLOCK, 4 * KV_BLOCK) is None
    assert kv.fork(parent, KV_BLOCK, 3 * KV_BLOCK) is not None
    assert copies.made == []


def test_any_history_keeps_the_books_balanced() -> None:
    random_source = random.Random(4)
    kv, _ = cache(n_blocks=24, n_slots=6)
    alive: list[tuple[BlockTable, NDArray[np.int32], int]] = []
    for _ in range(3000):
        if alive and random_source.random() < 0.5:
            kv.close(alive.pop(random_source.randrange(len(alive)))[0])
        else:
            tokens = prompt(random_source.randrange(1, 300), random_source.randrange(3))
            size = len(tokens) + random_source.randrange(1, 60)
            twin = next((entry for entry in alive if np.array_equal(entry[1], tokens)), None)
            if twin is not None and random_source.random() < 0.5:
                table = kv.fork(twin[0], len(tokens) - 1, size)
                n_cached = len(tokens) - 1
            else:
                table, n_cached = kv.open(tokens, size) or (None, 0)
            if table is None:
                continue
            assert n_cached < len(tokens)
            assert len(set(table.blocks)) == len(table.blocks) == -(-size // KV_BLOCK)
            kv.seal(table, tokens, len(tokens))
            alive.append((table, tokens, size))
        owners: dict[int, set[bytes]] = {}
        for table, tokens, _ in alive:
            for n, block in enumerate(table.blocks):
                owners.setdefault(block, set()).add(tokens[: (n + 1) * KV_BLOCK].tobytes() if len(tokens) else b"")
        assert kv.n_idle == 24 - len(owners)
        # Whoever shares a block agrees on every token up to its end.
        assert all(len(prefixes) == 1 for prefixes in owners.values())
        assert len({table.slot for table, _, _ in alive}) == len(alive)


def test_bytes_of_a_block() -> None:
    config = ModelConfig("bitnet-b1.58", 9, 30, 2560, 6912, 20, 5, 128, 1e-5, 5e5, "half", "relu2", True, True, 4096)
    assert block_bytes(config) == 64 * 30 * 2 * 5 * 128 * 2
