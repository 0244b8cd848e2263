"""Packed weights on disk: what repacking a model's tensors gave, kept for the next load, which maps it.

A file holds a model's residents of one layout: 8 bytes of magic; the SHA-256 of what it is for (the model's tensor root, layout
and version, tensors, shapes and places); the SHA-256 of each chunk of the data; an HMAC-SHA256 of all that; then, from a
multiple of 4096 on, the data, each resident at a multiple of 4096. It is written in pieces as large as a huge page, each at a
multiple of its size: a file system that can then keeps it in huge pages, and reading weights by rows or by streams is not held up
by looking for small ones.

Nothing in a file is trusted. Its size, its identity, the HMAC and every chunk, read through the very mapping that the kernels
will read, must be right, else it is made again. The key of the HMAC is a secret beside the files that only the user can read: a
file that somebody else made is not right either. What has the user's own rights can still change a file under a running
program, as it can the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import mmap
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tritium.filesystem import MAPPED_MAY_MOVE, is_own, open_to_read, others_may
from tritium.ir import Resident

Bytes = NDArray[np.uint8]
Pack = Callable[[Resident], Bytes]

FOLDER = "packed"
"""Of the cache folder."""
MAGIC = b"TRITPACK"
SUFFIX = ".packed"
KEY_NAME = "key"
KEY_BYTES = 32
CHUNK_BYTES = 1 << 20
"""Of one digest. Each thread hashes several side by side, so a file of a matrix has to be many."""
ALIGNMENT = 4096
PIECE_BYTES = 2 << 20
"""A huge page of x86-64, and of Arm with small pages of 4 KiB."""
LEAST_BYTES = 64 << 20
"""Below this packing again takes less time than a file is worth."""
LIMIT_BYTES = 16 << 30
"""What all files together may take; those not used for longest go first."""
SPARE_BYTES = 1 << 30
"""What a new file leaves free on its disk."""
_DIGEST_BYTES = 32


def stored(folder: Path) -> tuple[int, int]:
    """Number and bytes of the files of packed weights in a folder, which may be missing."""
    sizes = [size for _, size, _ in _files(folder)]
    return len(sizes), sum(sizes)


class PackedStore:
    """The packed weights of one model in a folder.

    ``root`` gives the digest of the model's tensors; it is called when there is something to look for. ``sha256_each`` gives the
    digests of several arrays.
    """

    def __init__(
        self, folder: Path, root: Callable[[], str], sha256_each: Callable[[Sequence[Bytes]], list[bytes]]
    ) -> None:
        self.folder = folder
        self._root, self._sha256_each = root, sha256_each

    @staticmethod
    def pays(n_bytes: int) -> bool:
        """True for a model with so many bytes of packed weights that keeping them saves time."""
        return n_bytes >= LEAST_BYTES

    def residents(self, layout: str, version: int, wanted: Sequence[Resident], pack: Pack) -> list[Bytes] | None:
        """The bytes of residents of one layout, mapped read-only from a file; ``pack`` makes each where there is no good file.

        None if the folder cannot hold a file. Errors: what ``pack`` raises; then no file is left behind.
        """
        places, end = [], 0
        for resident in wanted:
            places.append(end)
            end += _padded(resident.nbytes)
        n_chunks = -(-end // CHUNK_BYTES)
        parts = [(r.tensors, r.rows, r.cols, r.nbytes, place) for r, place in zip(wanted, places, strict=True)]
        subject = json.dumps([self._root(), layout, version, CHUNK_BYTES, parts])
        identity = hashlib.sha256(subject.encode()).digest()
        start = _padded(len(MAGIC) + _DIGEST_BYTES * (n_chunks + 2))
        path = self.folder / f"{identity.hex()[:32]}{SUFFIX}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = _key(self.folder)
            data = self._open(path, identity, key, start, end)
            if data is None:
                data = self._make(path, identity, key, start, end, zip(wanted, places, strict=True), pack)
        except OSError:
            return None
        return [data[place : place + r.nbytes] for r, place in zip(wanted, places, strict=True)]

    def _open(self, path: Path, identity: bytes, key: bytes, start: int, end: int) -> Bytes | None:
        """The data of a file, verified, or None if there is no file or it is not right."""
        try:
            file = open_to_read(path)
        except OSError:
            return None
        try:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size != start + end:
                return None
            mapping = _map(file)
            data = np.frombuffer(mapping, np.uint8, end, start)
            # The small part first: a file for something else, or another user's, is not worth reading.
            head = mapping[:start]
            n = len(MAGIC) + _DIGEST_BYTES + _DIGEST_BYTES * -(-end // CHUNK_BYTES)
            signed, seal = head[:n], head[n : n + _DIGEST_BYTES]
            if signed[: len(MAGIC) + _DIGEST_BYTES] != MAGIC + identity or not hmac.compare_digest(
                seal, _seal(key, signed)
            ):
                return None
            if b"".join(self._digests(data)) != signed[len(MAGIC) + _DIGEST_BYTES :]:
                return None
            with contextlib.suppress(OSError):
                os.utime(path)
            return data
        finally:
            os.close(file)

    def _make(
        self, path: Path, identity: bytes, key: bytes, start: int, end: int,
        parts: Iterator[tuple[Resident, int]], pack: Pack,
    ) -> Bytes:  # fmt: skip
        """Write the file, whole or not at all, and map it. Errors: OSError; what ``pack`` raises."""
        _make_room(self.folder, path, start + end)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=SUFFIX, dir=self.folder)
        try:
            with os.fdopen(handle, "w+b", buffering=0) as file:
                _write(file, start + end, ((start + place, pack(resident)) for resident, place in parts))
                mapped = np.frombuffer(_map(file.fileno()), np.uint8, end, start)
                data: Bytes | None = mapped
                signed = MAGIC + identity + b"".join(self._digests(mapped))
                file.seek(0)
                file.write(signed + _seal(key, signed))
            # Not forced to the disk, which would take longer than all the rest: what a crash tears is not right either.
            if not MAPPED_MAY_MOVE:
                del mapped
                data = None
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        if data is None:
            data = self._open(path, identity, key, start, end)
        if data is None:
            raise OSError(f"{path} did not stay as it was made")
        return data

    def _digests(self, data: Bytes) -> list[bytes]:
        return self._sha256_each([data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)])


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _map(file: int) -> mmap.mmap:
    """A file, to read, in huge pages where the system has them for files."""
    mapping = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system may be built without
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def _write(file: io.FileIO, n_bytes: int, parts: Iterable[tuple[int, Bytes]]) -> None:
    """Write a file of parts in ascending order of their places, zeros between them, a piece at a time. Errors: OSError."""
    piece, begin = np.zeros(PIECE_BYTES, np.uint8), 0

    def put(end: int) -> None:
        left = piece[: end - begin].data
        while left:
            left = left[file.write(left) :]
        piece[:] = 0

    for place, data in parts:
        done = 0
        while done < len(data):
            while place + done >= begin + PIECE_BYTES:
                put(begin + PIECE_BYTES)
                begin += PIECE_BYTES
            at = place + done - begin
            n = min(len(data) - done, PIECE_BYTES - at)
            piece[at : at + n] = data[done : done + n]
            done += n
    put(n_bytes)


def _seal(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _key(folder: Path) -> bytes:
    """The user's secret, made when there is none that only the user can read. Errors: OSError."""
    path = folder / KEY_NAME
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            file = open_to_read(path)
            try:
                facts = os.fstat(file)
                private = stat.S_ISREG(facts.st_mode) and is_own(facts) and not others_may(facts)
                key = os.read(file, KEY_BYTES + 1) if private else b""
            finally:
                os.close(file)
            if len(key) == KEY_BYTES:
                return key
            os.unlink(path)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(handle, "wb") as new:
                new.write(secrets.token_bytes(KEY_BYTES))
            # Of two processes that make one at a time the first wins, and both read it.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
    raise OSError(f"{path} cannot be kept private")


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of each file of packed weights, those left by an interrupted write included."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                facts = path.lstat()
                if path.name.endswith(SUFFIX) and stat.S_ISREG(facts.st_mode):
                    yield facts.st_mtime, facts.st_size, path


def _make_room(folder: Path, path: Path, n_bytes: int) -> None:
    """Delete what is over the limit, least recently used first. Errors: OSError if the disk has no room."""
    files = sorted(f for f in _files(folder) if f[2] != path)
    total = n_bytes + sum(size for _, size, _ in files)
    for _, size, old in files:
        if total <= LIMIT_BYTES:
            break
        with contextlib.suppress(OSError):
            old.unlink()
            total -= size
    if shutil.disk_usage(folder).free < n_bytes + SPARE_BYTES:
        raise OSError(f"{folder}: no room for {n_bytes} bytes")
