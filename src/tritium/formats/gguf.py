"""Read GGUF: a memory map, a checked header, and tensors as views. Nothing is copied and nothing is trusted.

File: magic, u32 version, u64 tensor count, u64 key count, keys, tensor infos, padding, data. Little-endian throughout.
Source: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tritium.errors import FormatError, ShapeError, UnsupportedError
from tritium.formats.gguf_header import HeaderCursor, MetaValue, StringArray, check_version
from tritium.layouts import I2S_LAYOUTS, LAYOUTS, Bytes, Floats, Trits
from tritium.receipts import jcs
from tritium.types import TensorInfo

DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
# Far above any model known, low enough that a hostile header is refused in well under a second.
MAX_KEYS = MAX_TENSORS = 1 << 16
DIGEST_PIECE_BYTES = 1 << 20
"""A tensor of more bytes has the digest of its pieces' digests. Part of what a root means: other pieces, other roots."""

_BITNET_ID = LAYOUTS["i2_s"].ggml_type
_BITNET_FILE_TYPES = (38, 39, 40)
_LAYOUT_OF_ID = {row.ggml_type: row.name for row in LAYOUTS.values() if row.ggml_type != _BITNET_ID}
_UNSUPPORTED = {
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    40: "NVFP4",
    41: "Q1_0",
    42: "Q2_0",
    142: "PQ2_0",
    143: "PTQ1_0",
}
# Ids that a fork gave to its own types after upstream had used or before it reused them: (fork, upstream).
_COLLIDING = {
    36: ("I2_S", "IQ4_NL_4_4, removed"),
    37: ("I8_S", "IQ4_NL_4_8, removed"),
    38: ("TL1", "IQ4_NL_8_8, removed"),
    39: ("TL2", "MXFP4"),
}


Sha256Each = Callable[[Sequence[Bytes], int], Sequence[bytes]]
T = TypeVar("T", bool, int, float, str, StringArray, "NDArray[Any]")


class GGUFFile:
    """An open model file. Make one with ``open_gguf``; use it as a context manager or call ``close``.

    ``metadata`` maps keys to Python scalars, ``StringArray`` or read-only NumPy arrays; ``tensors`` maps names to
    ``TensorInfo`` in file order, offsets counted from the start of the file. Views handed out stay valid after ``close``.
    """

    def __init__(self, path: Path, source: mmap.mmap, i2s_layout: str) -> None:
        self.path = path
        self._map = source
        cursor = HeaderCursor(source, path)
        self.version = check_version(cursor)
        n_tensors = cursor.count("number of tensors", MAX_TENSORS, 33)
        n_keys = cursor.count("number of keys", MAX_KEYS, 14)
        metadata: dict[str, MetaValue] = {}
        self._spans: dict[str, tuple[int, int]] = {}
        self._scales: dict[str, np.float32 | None] = {}
        self._digests: dict[str, str] | None = None
        self._sha256: str | None = None
        for _ in range(n_keys):
            start = cursor.position
            key = cursor.name("a key")
            if key in metadata:
                raise cursor.error("key occurs twice", at=start, name=key)
            value_start = cursor.position
            metadata[key] = cursor.value(key)
            self._spans[key] = (value_start, cursor.position)
        self.metadata: Mapping[str, MetaValue] = MappingProxyType(metadata)
        self.alignment = self.get("general.alignment", int, DEFAULT_ALIGNMENT)
        if not 8 <= self.alignment <= MAX_ALIGNMENT or self.alignment & (self.alignment - 1):
            expected = f"a power of two, 8 to {MAX_ALIGNMENT}"
            where = f"{path}: general.alignment, byte {self._spans['general.alignment'][0]}"
            raise FormatError("impossible alignment", where=where, expected=expected, got=self.alignment)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            _read_tensors(cursor, n_tensors, self, I2S_LAYOUTS[i2s_layout])
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file; where views of it are still held, the map goes with the last of them."""
        try:
            self._map.close()
        except BufferError:
            return

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return len(self._map)

    def require(self, key: str, kind: type[T]) -> T:
        """The value of a key. A float may be stored as an integer. Errors: FormatError naming a missing or mistyped key."""
        if key not in self.metadata:
            raise FormatError("missing key", where=f"{self.path}: {key}")
        value: object = self.metadata[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            at = f"{self.path}: {key}, byte {self._spans[key][0]}"
            raise FormatError("wrong type", where=at, expected=kind.__name__, got=type(value).__name__)
        if isinstance(value, float) and not math.isfinite(value):
            raise FormatError("value is not finite", where=f"{self.path}: {key}, byte {self._spans[key][0]}", got=value)
        return value

    def get(self, key: str, kind: type[T], default: T) -> T:
        """As ``require``, with a default for a key that is absent (not for one of the wrong type)."""
        return self.require(key, kind) if key in self.metadata else default

    def raw(self, key: str) -> bytes:
        """Type and value of a key as they stand in the file, for a verbatim copy."""
        start, stop = self._spans[key]
        return self._map[start:stop]

    def tensor(self, name: str) -> TensorInfo:
        """Errors: FormatError naming a missing tensor."""
        if name not in self.tensors:
            raise FormatError("missing tensor", where=f"{self.path}: {name}")
        return self.tensors[name]

    def data(self, name: str) -> Bytes:
        """The bytes of a tensor: a read-only view of the map, (nbytes,) u8."""
        info = self.tensor(name)
        return self._view(info.offset, info.offset + info.nbytes)

    def _view(self, start: int, stop: int) -> Bytes:
        return np.frombuffer(self._map, np.uint8, stop - start, start)

    def pieces(self, name: str, step: int, stop: int) -> Iterator[Bytes]:
        """The first ``stop`` bytes of a tensor, ``step`` at a time: a large file is read in little memory.

        A piece's pages are given back when the next piece is asked for; reading them again brings them back from the file.
        """
        data, first = self.data(name), self.tensor(name).offset
        for start in range(0, stop, step):
            end = min(start + step, stop)
            yield data[start:end]
            self._forget(first + start, first + end)

    def _forget(self, start: int, stop: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED"):  # Windows takes pages back by itself
            start = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def check(self, name: str) -> None:
        """Read a tensor through once: FormatError, with path, tensor and byte, for code 3 or a NaN or Inf."""
        info = self.tensor(name)
        LAYOUTS[info.layout].check(self.data(name), info.shape, where=self._where(name), offset=info.offset)

    def unpack(self, name: str) -> Floats:
        """A tensor as f32 in its shape; see ``Layout.unpack``."""
        info = self.tensor(name)
        layout = LAYOUTS[info.layout]
        return layout.unpack(self.data(name), info.shape, where=self._where(name), offset=info.offset)

    def trits(self, name: str) -> tuple[Trits, Floats]:
        """A ternary tensor as trits i8 in its shape and scales f32; see ``Layout.trits``."""
        info = self.tensor(name)
        layout = LAYOUTS[info.layout]
        return layout.trits(self.data(name), info.shape, where=self._where(name), offset=info.offset)

    def scale(self, name: str) -> np.float32 | None:
        """The scale that all weights of a ternary tensor share, or None; see ``Layout.scale``. Found once, then remembered."""
        if name not in self._scales:
            info = self.tensor(name)
            layout, where = LAYOUTS[info.layout], self._where(name)
            self._scales[name] = layout.scale(self.data(name), info.shape, where=where, offset=info.offset)
        return self._scales[name]

    def fingerprints(self, n_threads: int = 1, sha256_each: Sha256Each | None = None) -> list[dict[str, Any]]:
        """Name, shape, layout, nbytes and sha256 of every tensor, in the file's order; read once, then remembered.

        sha256 is that of the tensor's bytes. For a tensor of more than 1 MiB it is that of the SHA-256 digests of its pieces of
        1 MiB, the last one shorter, 32 bytes each, joined in their order: pieces are hashed side by side, a string is not.
        nbytes says which: a small tensor whose bytes are the digests of a large one has its sha256, but not its nbytes.

        ``sha256_each(arrays, n_threads)`` gives digests of bytes; hashlib's does without, in little memory.
        """
        if self._digests is None:
            pieces = {name: _pieces_of(info) for name, info in self.tensors.items()}
            longest_first = sorted(chain.from_iterable(pieces.values()), key=lambda span: span[0] - span[1])
            if sha256_each is None:
                with ThreadPoolExecutor(n_threads) as pool:
                    found = list(pool.map(self._digest, longest_first))
            else:
                found = list(sha256_each([self._view(*span) for span in longest_first], n_threads))
            digests = dict(zip(longest_first, found, strict=True))
            self._digests = {name: _digest_of([digests[span] for span in spans]) for name, spans in pieces.items()}
        return [
            {"name": name, "shape": list(info.shape), "layout": info.layout, "nbytes": info.nbytes,
             "sha256": self._digests[name]}
            for name, info in self.tensors.items()
        ]  # fmt: skip

    def root(self, n_threads: int = 1, sha256_each: Sha256Each | None = None) -> str:
        """SHA-256 over the canonical JSON of ``fingerprints``: what the model's weights are, whatever file they are in."""
        return jcs.digest(self.fingerprints(n_threads, sha256_each))

    def _digest(self, span: tuple[int, int]) -> bytes:
        digest = hashlib.sha256(self._view(*span).data).digest()
        self._forget(*span)
        return digest

    def sha256(self) -> str:
        """SHA-256 of the whole file, in hexadecimal; read once, then remembered."""
        if self._sha256 is not None:
            return self._sha256
        digest = hashlib.sha256()
        with memoryview(self._map) as view:
            for start in range(0, len(view), 1 << 24):
                digest.update(view[start : start + (1 << 24)])
                self._forget(start, min(start + (1 << 24), len(view)))
        self._sha256 = digest.hexdigest()
        return self._sha256

    def _where(self, name: str) -> str:
        return f"{self.path}: tensor {name}"


def _pieces_of(info: TensorInfo) -> list[tuple[int, int]]:
    """First byte in the file and the one after the last of each piece of a tensor that has a digest of its own."""
    end = info.offset + info.nbytes
    return [(at, min(at + DIGEST_PIECE_BYTES, end)) for at in range(info.offset, end, DIGEST_PIECE_BYTES)]


def _digest_of(pieces: Sequence[bytes]) -> str:
    """The digest of a tensor, in hexadecimal, from those of its pieces."""
    return pieces[0].hex() if len(pieces) == 1 else hashlib.sha256(b"".join(pieces)).hexdigest()


def open_gguf(path: str | os.PathLike[str], *, i2s_layout: str = "128") -> GGUFFile:
    """Open a GGUF file, checking its header whole.

    ``i2s_layout`` says in which order I2_S stands ("128", "64" or "4row"): files do not tell.
    Errors: OSError if it cannot be read; FormatError or UnsupportedError with path, name and byte; ShapeError for an
    unknown ``i2s_layout``.
    """
    if i2s_layout not in I2S_LAYOUTS:
        raise ShapeError("unknown I2_S layout", expected=" or ".join(I2S_LAYOUTS), got=repr(i2s_layout))
    path = Path(path)
    if stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError("file is empty", where=f"{path}: byte 0")
            source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    elif path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a model file")
    else:
        raise FormatError("not a regular file", where=str(path))
    return GGUFFile(path, source, i2s_layout)


def _read_tensors(cursor: HeaderCursor, count: int, file: GGUFFile, i2s_layout: str) -> dict[str, TensorInfo]:
    """Read the tensor infos and place them: known types, sizes inside the file, aligned, disjoint."""
    entries: dict[str, tuple[tuple[int, ...], int, int, int]] = {}
    for _ in range(count):
        start = cursor.position
        name = cursor.name("a tensor name")
        if name in entries:
            raise cursor.error("tensor occurs twice", at=start, name=name)
        n_dims = cursor.u32(f"the dimensions of {name}")
        if not 1 <= n_dims <= 4:
            raise cursor.error("impossible number of dimensions", at=start, name=name, expected="1 to 4", got=n_dims)
        shape = tuple(cursor.u64(f"the dimensions of {name}") for _ in range(n_dims))[::-1]
        if min(shape) < 1 or max(shape) >= 1 << 63:
            raise cursor.error("impossible dimension", at=start, name=name, expected="1 to 2⁶³ − 1", got=shape)
        kind = cursor.u32(f"the type of {name}")
        offset = cursor.u64(f"the offset of {name}")
        if offset % file.alignment:
            expected = f"a multiple of {file.alignment}"
            raise cursor.error("misaligned tensor", at=start, name=name, expected=expected, got=offset)
        entries[name] = (shape, kind, offset, start)
    base = -(-cursor.position // file.alignment) * file.alignment
    tensors: dict[str, TensorInfo] = {}
    in_order = sorted(entries, key=lambda name: entries[name][2])
    for rank, name in enumerate(in_order, 1):
        limit = base + entries[in_order[rank]][2] if rank < len(in_order) else cursor.size
        shape, kind, offset, start = entries[name]
        room = limit - base - offset
        layout = LAYOUTS[_resolve_layout(cursor, file, name, kind, math.prod(shape), room, i2s_layout)]
        try:
            nbytes = layout.nbytes(shape)
        except ShapeError as error:
            raise cursor.error(error.what, at=start, name=name, expected=error.expected, got=error.got) from None
        if base + offset + nbytes > cursor.size:
            expected = f"{base + offset + nbytes} bytes"
            raise cursor.error(
                "file ends inside a tensor", at=base + offset, name=name, expected=expected, got=cursor.size
            )
        if nbytes > room:
            got = f"{nbytes}, and another tensor there"
            raise cursor.error("tensors overlap", at=limit, name=name, expected=f"at most {room} bytes", got=got)
        tensors[name] = TensorInfo(name, shape, layout.name, base + offset, nbytes)
    return {name: tensors[name] for name in entries}


def _resolve_layout(
    cursor: HeaderCursor, file: GGUFFile, name: str, kind: int, n_weights: int, room: int, i2s_layout: str
) -> str:
    """The layout of a type id. Ids 36 to 39 mean two things: file type, architecture and size decide."""
    if kind in _LAYOUT_OF_ID:
        return _LAYOUT_OF_ID[kind]
    label = _UNSUPPORTED.get(kind, "unknown")
    if kind in _COLLIDING:
        file_type = file.metadata.get("general.file_type")
        nbytes = n_weights // 4 + LAYOUTS["i2_s"].tail_bytes
        fits = nbytes <= room < nbytes + file.alignment
        if kind == _BITNET_ID and (file_type == LAYOUTS["i2_s"].file_type or fits):
            return i2s_layout
        architecture = str(file.metadata.get("general.architecture", ""))
        is_fork = file_type in _BITNET_FILE_TYPES or architecture.startswith("bitnet")
        label = _COLLIDING[kind][0 if is_fork else 1]
    known = ", ".join(sorted({row.upper() for row in _LAYOUT_OF_ID.values()} | {"I2_S"}))
    where = f"{cursor.path}: tensor {name}"
    raise UnsupportedError("tensor type", where=where, expected=f"one of {known}", got=f"{kind} ({label})")
