"""What a run commits to: one hash over its tokens and over what passed between its layers.

The leaf of a forwarded position is DOMAIN ‖ run (16 bytes) ‖ length of the nonce (u8) ‖ nonce ‖ position ‖ token_in ‖ column ‖
hidden ‖ token_out, numbers as little-endian u32, hashes 32 bytes. ``column`` commits to the quantized rows of the position in
all layers, ``hidden`` to the row that the head multiplied (``types.StepResult``); zeros, and NO_TOKEN as token_out, where no
logits were asked for. The root is that of RFC 6962, over the leaves of one sequence after the other. No part depends on chunks,
batches, threads or instruction sets: a replay comes to the same.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from tritium.receipts import merkle

TRACE_FORMAT = "tritium-trace-1"
DOMAIN = TRACE_FORMAT.encode() + b"\0"
NO_TOKEN = 0xFFFFFFFF
DIGEST = 32


def ids_hash(ids: Sequence[int]) -> str:
    """SHA-256 of token ids as little-endian u32."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


def outputs_hash(digests: Sequence[str | None]) -> str | None:
    """The hash of one sequence as it is; of several, SHA-256 of their hashes' bytes in order. None where one is missing."""
    if len(digests) == 1 or None in digests:
        return digests[0] if len(digests) == 1 else None
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests if digest)).hexdigest()


def sequences_of(evidence: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Prompts and tokens of a receipt: the run's own, then the others of a batch."""
    return [evidence["run"], *evidence.get("batch", {"others": ()})["others"]]


def note_rows(rows: MutableMapping[int, bytes], first: int, digests: bytes) -> None:
    """Put digests of consecutive positions under their positions."""
    for i in range(0, len(digests), DIGEST):
        rows[first + i // DIGEST] = digests[i : i + DIGEST]


def trace_leaf(
    run: bytes,
    nonce: str | None,
    position: int,
    token_in: int,
    column: bytes,
    hidden: bytes | None,
    token_out: int | None,
) -> bytes:
    """One leaf."""
    said = (nonce or "").encode()
    ends = struct.pack("<II", position, token_in), struct.pack("<I", NO_TOKEN if token_out is None else token_out)
    return b"".join((DOMAIN, run, bytes([len(said)]), said, ends[0], column, hidden or bytes(DIGEST), ends[1]))


def trace_leaves(
    run: bytes, nonce: str | None, ids: Sequence[int], first: int, n_prompt: int, columns: Mapping[int, bytes],
    hidden: Mapping[int, bytes],
) -> list[bytes] | None:  # fmt: skip
    """Leaves of the positions from ``first`` up to the one before the last token; None if a hash is missing.

    ``ids`` are prompt and output. Positions from ``n_prompt`` − 1 on chose the token that follows them.
    """
    leaves = []
    for position in range(first, len(ids) - 1):
        chooses = position >= n_prompt - 1
        if position not in columns or (chooses and position not in hidden):
            return None
        end = hidden[position] if chooses else None
        chosen = ids[position + 1] if chooses else None
        leaves.append(trace_leaf(run, nonce, position, ids[position], columns[position], end, chosen))
    return leaves


def trace_root(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree over the leaves."""
    return merkle.range_hash(subtrees(leaves), 0, len(leaves))


def subtrees(leaves: Sequence[bytes]) -> merkle.Subtree:
    """The perfect subtrees of the tree over the leaves, for roots and proofs."""
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    return lambda start, end: merkle.perfect_root(hashes[start:end])
