"""The Merkle tree of RFC 6962: hashes, roots, inclusion and consistency proofs.

A prover names any subtree by its range of leaves, ``subtree(start, end)``, and need not hold the leaves themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

Subtree = Callable[[int, int], bytes]
"""(start, end) → the hash of a *perfect* subtree: end − start is a power of two that divides start."""


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: Iterable[bytes]) -> bytes:
    """Return the root over 2^h ≥ 1 hashes of one level."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def perfect_parts(start: int, end: int) -> list[tuple[int, int]]:
    """Split [start, end) into the fewest perfect subtrees, left to right.

    For start = 0, or start a multiple of a power of two above end − start, these are the subtrees whose hashes, folded
    from the right, give the hash of the range.
    """
    parts = []
    while start < end:
        size = 1 << (end - start).bit_length() - 1
        parts.append((start, start + size))
        start += size
    return parts


def range_hash(subtree: Subtree, start: int, end: int) -> bytes:
    """Return MTH(D[start:end]) for a range that a proof may name."""
    if start == end:
        return EMPTY_ROOT
    hashes = [subtree(*part) for part in perfect_parts(start, end)]
    result = hashes.pop()
    while hashes:
        result = node_hash(hashes.pop(), result)
    return result


def _split(size: int) -> int:
    """The largest power of two below ``size`` ≥ 2."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(subtree: Subtree, index: int, size: int) -> list[bytes]:
    """Return PATH(index, D[0:size]), from the leaf's sibling up. Errors: ValueError unless 0 ≤ index < size."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_hash(subtree, middle, end))
            end = middle
        else:
            path.append(range_hash(subtree, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(subtree: Subtree, old: int, new: int) -> list[bytes]:
    """Return PROOF(old, D[0:new]). Errors: ValueError unless 0 ≤ old ≤ new. An old size of 0 or ``new`` needs no hash."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} cannot come before one of {new}")
    if old in (0, new):
        return []
    path, start, end, is_whole = [], 0, new, True
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_hash(subtree, middle, end))
            end = middle
        else:
            path.append(range_hash(subtree, start, middle))
            start, is_whole = middle, False
    if not is_whole:
        path.append(range_hash(subtree, start, end))
    return path[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root of a tree of ``size`` leaves that the proof leads to, or None where its length does not fit.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    position, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return None
        if position & 1 or position == last:
            result = node_hash(sibling, result)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        position, last = position >> 1, last >> 1
    return result if last == 0 else None


def is_consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether the proof shows the tree of ``old`` leaves to be the start of the tree of ``new`` leaves.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 <= old <= new:
        return False
    if old in (0, new):
        return not proof and old_root == (EMPTY_ROOT if old == 0 else new_root)
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_result = new_result = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_result, new_result = node_hash(sibling, old_result), node_hash(sibling, new_result)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            new_result = node_hash(new_result, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and old_result == old_root and new_result == new_root
