"""Which blocks of the key-value cache belong to which sequence: tables, reference counts, shared prefixes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tritium.errors import ShapeError
from tritium.numerics import KV_BLOCK
from tritium.ops import vector_bytes
from tritium.types import ModelConfig

Tokens = NDArray[np.int32]

_ROOT = 0


def block_bytes(config: ModelConfig, kv: str = "f16") -> int:
    """Bytes of one cache block: keys and values of KV_BLOCK positions in all layers, kept as ``kv``, "f16" or "int8"."""
    return 2 * config.n_layers * config.n_kv_heads * vector_bytes(kv, config.head_dim) * KV_BLOCK


def blocks_for(n_positions: int) -> int:
    """Blocks that hold this many positions."""
    return -(-n_positions // KV_BLOCK)


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence, in the order of positions; ``slot`` is its row in ``KVCache.tables``.

    ``entries`` are the numbers under which the first, full blocks stand in the prefix index.
    """

    slot: int
    blocks: list[int]
    entries: list[int] = field(default_factory=list)


class KVCache:
    """Hands out cache blocks. A sequence gets all blocks that it may ever need when it opens, so it never runs dry.

    Blocks are shared by reference count. A full block is indexed by its tokens and all tokens before it; when nobody
    owns it any more it stays readable until its place is needed, least recently used first. ``reuse`` turns that off.
    ``tables`` (n_slots, W) i32 is what a batch's ``block_tables`` takes; ``copy_block(source, target)`` copies one block.
    """

    def __init__(
        self,
        n_blocks: int,
        n_slots: int,
        max_context: int,
        copy_block: Callable[[int, int], None],
        *,
        reuse: bool = True,
    ) -> None:
        if min(n_blocks, n_slots, max_context) < 1:
            raise ShapeError(
                "cache", expected="at least 1 block, slot and position", got=(n_blocks, n_slots, max_context)
            )
        self.n_blocks, self.reuse = n_blocks, reuse
        self.tables = np.zeros((n_slots, blocks_for(max_context)), np.int32)
        self._copy_block = copy_block
        self._free_slots = list(range(n_slots - 1, -1, -1))
        self._counts = [0] * n_blocks
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))
        self._index: dict[tuple[int, bytes], tuple[int, int]] = {}
        self._key_of: dict[int, tuple[int, bytes]] = {}
        self._last_entry = _ROOT

    @property
    def n_idle(self) -> int:
        """Blocks that no sequence owns."""
        return len(self._idle)

    def check_fits(self, n_positions: int) -> None:
        """Errors: ShapeError for a sequence that cannot fit even into an empty cache."""
        capacity = min(self.n_blocks, self.tables.shape[1]) * KV_BLOCK
        if n_positions > capacity:
            raise ShapeError(
                "sequence does not fit the key-value cache",
                expected=f"at most {capacity} tokens",
                got=n_positions,
                hint="Raise kv_budget, or lower max_tokens",
            )

    def open(self, prompt: Tokens, n_positions: int) -> tuple[BlockTable, int] | None:
        """Open a sequence of up to ``n_positions``: its table, and how many of the prompt's positions are cached already.

        At least the prompt's last token is left to forward. None while others hold what it needs.
        Errors: ShapeError as ``check_fits``.
        """
        self.check_fits(n_positions)
        found: list[tuple[int, int]] = []
        parent = _ROOT
        for n in range((len(prompt) - 1) // KV_BLOCK if self.reuse else 0):
            entry = self._index.get((parent, prompt[n * KV_BLOCK : (n + 1) * KV_BLOCK].tobytes()))
            if entry is None:
                break
            found.append(entry)
            parent = entry[1]
        table = self._allocate([block for block, _ in found], blocks_for(n_positions))
        if table is None:
            return None
        table.entries = [number for _, number in found]
        return table, len(found) * KV_BLOCK

    def fork(self, parent: BlockTable, n_shared: int, n_positions: int) -> BlockTable | None:
        """Open a sequence that continues the first ``n_shared`` positions of another.

        Full blocks are shared; the partial one, which both will write, is copied. None as in ``open``.
        """
        self.check_fits(n_positions)
        full, partial = divmod(n_shared, KV_BLOCK)
        table = self._allocate(parent.blocks[:full], blocks_for(n_positions))
        if table is None:
            return None
        if partial:
            self._copy_block(parent.blocks[full], table.blocks[full])
        table.entries = parent.entries[:full]
        return table

    def seal(self, table: BlockTable, tokens: Tokens, n_computed: int) -> None:
        """Index the blocks that ``n_computed`` forwarded positions have filled. Shapes: tokens (≥ n_computed,) i32."""
        while self.reuse and (len(table.entries) + 1) * KV_BLOCK <= n_computed:
            n = len(table.entries)
            key = (table.entries[-1] if n else _ROOT, tokens[n * KV_BLOCK : (n + 1) * KV_BLOCK].tobytes())
            entry = self._index.get(key)
            if entry is None:
                self._last_entry += 1
                entry = self._index[key] = (table.blocks[n], self._last_entry)
                self._key_of[table.blocks[n]] = key
            table.entries.append(entry[1])

    def close(self, table: BlockTable) -> None:
        """Give the sequence's blocks and slot back."""
        # Later blocks go first: a prefix is worth keeping longer than what follows it.
        for block in reversed(table.blocks):
            self._counts[block] -= 1
            if self._counts[block] == 0:
                self._idle[block] = None
                if block not in self._key_of:
                    self._idle.move_to_end(block, last=False)
        table.blocks = []
        self._free_slots.append(table.slot)

    def _allocate(self, shared: list[int], n_blocks: int) -> BlockTable | None:
        """A table of ``shared`` and then fresh blocks, ``n_blocks`` in all, or None if there are not enough."""
        n_revived = sum(self._counts[block] == 0 for block in shared)
        if not self._free_slots or n_blocks - len(shared) > len(self._idle) - n_revived:
            return None
        for block in shared:
            self._counts[block] += 1
            self._idle.pop(block, None)
        table = BlockTable(self._free_slots.pop(), list(shared))
        while len(table.blocks) < n_blocks:
            block, _ = self._idle.popitem(last=False)
            key = self._key_of.pop(block, None)
            if key is not None:
                del self._index[key]
            self._counts[block] = 1
            table.blocks.append(block)
        row = self.tables[table.slot]
        row[:] = 0
        row[:n_blocks] = table.blocks
        return table
