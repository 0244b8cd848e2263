"""A Merkle tree in tiles of 256 hashes on plain files, and the bundles of its entries.

Source: C2SP tlog-tiles. A tile of level l holds roots of subtrees of 256^l leaves; level 0 holds leaf hashes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from tritium.errors import FormatError, GateError
from tritium.receipts.merkle import HASH_BYTES, leaf_hash, perfect_root, range_hash

WIDTH = 256
HEIGHT = 8
MAX_ENTRY_BYTES = 0xFFFF
BUNDLES = "entries"


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """Return tile/<level>/<index>[.p/<width>]; index 1234067 is x001/x234/067. ``level`` may be ``BUNDLES``."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03d}")
    return f"tile/{level}/{'/'.join(parts)}" + (f".p/{width}" if width < WIDTH else "")


def encode_entries(entries: Sequence[bytes]) -> bytes:
    """Return a bundle: each entry after its length in 2 bytes, big-endian. Errors: FormatError if one is too long."""
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise FormatError("the entry is too long for a log", expected=f"≤ {MAX_ENTRY_BYTES} bytes", got=len(entry))
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


def decode_entries(bundle: bytes, where: str) -> list[bytes]:
    """Return the entries of a bundle. Errors: GateError if it ends inside one."""
    entries, at = [], 0
    while at < len(bundle):
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if at + 2 > len(bundle) or end > len(bundle):
            raise GateError("a bundle of entries is cut short", where=where, got=f"{len(bundle)} bytes")
        entries.append(bundle[at + 2 : end])
        at = end
    return entries


class Tiles:
    """Reads the files of a log for one tree size; what it returns is as good as the root it is checked against."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._tiles: dict[tuple[int, int], bytes] = {}

    def _read(self, level: int | str, index: int, width: int, limit: int) -> tuple[bytes, str, bool]:
        """The file's bytes, its path, and whether it is the full one. A full file stands in for a partial one deleted."""
        for candidate in dict.fromkeys((width, WIDTH)):
            path = self.folder / tile_path(level, index, candidate)
            try:
                with path.open("rb") as file:
                    return file.read(limit + 1), str(path), candidate == WIDTH
            except FileNotFoundError:
                continue
        raise GateError(
            "a tile of the log is missing", where=str(self.folder / tile_path(level, index, width)),
            expected=f"the checkpoint's {self.size} entries",
        )  # fmt: skip

    def _width(self, level: int, index: int) -> int:
        return min(WIDTH, (self.size >> HEIGHT * level) - index * WIDTH)

    def hashes(self, level: int, index: int) -> bytes:
        """Return one tile's hashes, as many as the tree has. Errors: GateError if it is missing or cut short."""
        if (level, index) not in self._tiles:
            width = self._width(level, index)
            data, path, is_full = self._read(level, index, width, WIDTH * HASH_BYTES)
            expected = (WIDTH if is_full else width) * HASH_BYTES
            if len(data) != expected:
                raise GateError("a tile has the wrong length", where=path, expected=f"{expected} bytes", got=len(data))
            self._tiles[level, index] = data[: width * HASH_BYTES]
        return self._tiles[level, index]

    def subtree(self, start: int, end: int) -> bytes:
        """Return the hash of a perfect subtree inside the tree (``merkle.Subtree``)."""
        height = (end - start).bit_length() - 1
        level = height // HEIGHT
        first = start >> HEIGHT * level
        tile = self.hashes(level, first // WIDTH)
        at = first % WIDTH * HASH_BYTES
        span = HASH_BYTES << height % HEIGHT
        return perfect_root(tile[i : i + HASH_BYTES] for i in range(at, at + span, HASH_BYTES))

    def root(self) -> bytes:
        """Return the root over all leaves, from the tiles on the right edge."""
        return range_hash(self.subtree, 0, self.size)

    def bundle(self, index: int) -> list[bytes]:
        """Return one bundle's entries. Errors: GateError if one is missing, or is not what its tile says."""
        width = self._width(0, index)
        data, path, is_full = self._read(BUNDLES, index, width, WIDTH * (MAX_ENTRY_BYTES + 2))
        entries = decode_entries(data, path)
        if len(entries) != (WIDTH if is_full else width):
            raise GateError("a bundle holds another number of entries", where=path, expected=width, got=len(entries))
        tile = self.hashes(0, index)
        for number, entry in enumerate(entries[:width]):
            if leaf_hash(entry) != tile[number * HASH_BYTES : (number + 1) * HASH_BYTES]:
                raise GateError(
                    "an entry is not the one that the tree holds", where=path, got=f"entry {index * WIDTH + number}"
                )
        return entries[:width]

    def entry(self, index: int) -> bytes:
        """Return one entry, compared with its leaf. Errors: GateError; ValueError unless 0 ≤ index < size."""
        if not 0 <= index < self.size:
            raise ValueError(f"entry {index} is not in a log of {self.size}")
        return self.bundle(index // WIDTH)[index % WIDTH]

    def entries(self) -> Iterator[bytes]:
        """Yield all entries, each compared with its leaf."""
        for index in range(-(-self.size // WIDTH)):
            yield from self.bundle(index)

    def check_levels(self) -> None:
        """Compare every hash above level 0 with the full tile below it. Errors: GateError."""
        level = 1
        while self.size >> HEIGHT * level:
            for position in range(self.size >> HEIGHT * level):
                below = self.hashes(level - 1, position)
                at = position % WIDTH * HASH_BYTES
                root = perfect_root(below[i : i + HASH_BYTES] for i in range(0, len(below), HASH_BYTES))
                if self.hashes(level, position // WIDTH)[at : at + HASH_BYTES] != root:
                    path = str(self.folder / tile_path(level, position // WIDTH, self._width(level, position // WIDTH)))
                    raise GateError("a tile contradicts the one below it", where=path, got=f"hash {position % WIDTH}")
            level += 1


def grow(tiles: Tiles, entries: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of every file that the tree has to gain before ``entries`` follow its last one."""
    hashes, start, level = [leaf_hash(entry) for entry in entries], tiles.size, 0
    while hashes:
        complete = []
        end = start + len(hashes)
        for index in range(start // WIDTH, -(-end // WIDTH)):
            low, high = index * WIDTH, min((index + 1) * WIDTH, end)
            tile = tiles.hashes(level, index) if low < start else b""
            tile += b"".join(hashes[max(low - start, 0) : high - start])
            yield tile_path(level, index, high - low), tile
            if high - low == WIDTH:
                complete.append(perfect_root(tile[i : i + HASH_BYTES] for i in range(0, len(tile), HASH_BYTES)))
            if level == 0:
                old = tiles.bundle(index) if low < start else []
                yield (
                    tile_path(BUNDLES, index, high - low),
                    encode_entries([*old, *entries[max(low - start, 0) : high - start]]),
                )
        hashes, start, level = complete, start // WIDTH, level + 1
