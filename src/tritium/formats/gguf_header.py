"""The header of a GGUF file: a cursor that checks every read against the end of the file, and what it reads.

A value is a u32 type and a payload; an array's payload is a u32 element type, a u64 count and the elements.
Source: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from tritium.errors import FormatError, UnsupportedError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# GGUF value type id → NumPy type; bool 7, string 8 and array 9 have their own forms.
SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
BOOL, STRING, ARRAY = 7, 8, 9

# Bounds far above any model known, low enough that a hostile header is refused in well under a second.
MAX_NAME_BYTES = (1 << 16) - 1
MAX_STRING_BYTES = 1 << 24
MAX_TEXT_BYTES = 1 << 26
MAX_STRINGS = 1 << 22


_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class StringArray(Sequence[str]):
    """An array of strings in a header; decoded, all at once, when first read.

    Errors: FormatError naming the key and the element that is not UTF-8.
    """

    def __init__(self, source: mmap.mmap, start: int, stop: int, count: int, where: str) -> None:
        self._source: mmap.mmap | None = source
        self._start, self._stop, self._count, self._where = start, stop, count, where
        self._texts: list[str] = []

    def joined(self, separator: str) -> str:
        """All strings with ``separator``, 1 to 8 characters of ASCII, between them."""
        if self._source is None:
            return separator.join(self._texts)
        mark = separator.encode("ascii")
        places = np.fromiter(self._places(self._source), np.int64, self._count)
        places -= self._start
        data = np.frombuffer(self._source, np.uint8, self._stop - self._start, self._start)
        # Separators take the place of lengths. They are ASCII: what decodes as a whole decodes string by string.
        kept = np.ones(len(data), np.bool_)
        for k in range(len(mark), 8):
            kept[places + k] = False
        text = data[kept]
        places -= (8 - len(mark)) * np.arange(self._count)
        for k, byte in enumerate(mark):
            text[places + k] = byte
        try:
            return str(text[len(mark) :].data, "utf-8")
        except UnicodeDecodeError:
            return separator.join(self._one_by_one(self._source))

    def _places(self, source: mmap.mmap) -> Iterator[int]:
        """Where the length of each string stands, its text behind it."""
        place, length_at = self._start, _U64.unpack_from
        for _ in range(self._count):
            yield place
            place += 8 + length_at(source, place)[0]

    def _one_by_one(self, source: mmap.mmap) -> list[str]:
        texts: list[str] = []
        for place in self._places(source):
            length = _U64.unpack_from(source, place)[0]
            try:
                texts.append(source[place + 8 : place + 8 + length].decode())
            except UnicodeDecodeError as error:
                where = f"{self._where}[{len(texts)}], byte {place + 8 + error.start}"
                raise FormatError("string is not UTF-8", where=where) from None
        return texts

    def _decoded(self) -> list[str]:
        if self._source is not None:
            texts = self.joined("\0").split("\0")
            self._texts = texts if len(texts) == self._count else self._one_by_one(self._source)
            self._source = None
        return self._texts

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._decoded()[index]

    def __repr__(self) -> str:
        return f"<{self._count} strings>"


MetaValue: TypeAlias = bool | int | float | str | StringArray | NDArray[Any]


class HeaderCursor:
    """A position in the header; every read is checked against the end of the file."""

    def __init__(self, source: mmap.mmap, path: Path) -> None:
        self.source, self.path, self.size, self.position = source, path, len(source), 0
        self.n_text_bytes = self.n_strings = 0

    def error(self, what: str, *, at: int | None = None, name: str | None = None, **facts: Any) -> FormatError:
        place = f"{self.path}: {name}, byte" if name else f"{self.path}: byte"
        return FormatError(what, where=f"{place} {self.position if at is None else at}", **facts)

    def take(self, count: int, what: str) -> int:
        """Move over ``count`` bytes and return where they start."""
        start = self.position
        if count > self.size - start:
            raise self.error(f"file ends inside {what}", expected=f"{count} bytes", got=self.size - start)
        self.position += count
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.source, self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.source, self.take(8, what))[0])

    def count(self, what: str, limit: int, smallest: int) -> int:
        """A count of items of at least ``smallest`` bytes: refused before anything is done with it."""
        start, count = self.position, self.u64(what)
        limit = min(limit, (self.size - self.position) // smallest)
        if count > limit:
            raise self.error(f"impossible {what}", at=start, expected=f"at most {limit}", got=count)
        return count

    def string(self, what: str, limit: int) -> str:
        length = self.count(f"length of {what}", min(limit, MAX_TEXT_BYTES - self.n_text_bytes), 1)
        self.n_text_bytes += length
        start = self.take(length, what)
        try:
            return self.source[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", at=start + error.start) from None

    def name(self, what: str) -> str:
        start, name = self.position, self.string(what, MAX_NAME_BYTES)
        if not name or not name.isprintable():
            raise self.error(f"{what} is empty or not printable", at=start, got=repr(name[:64]))
        return name

    def scalar(self, kind: int, key: str) -> MetaValue:
        if kind == STRING:
            return self.string(f"the value of {key}", MAX_STRING_BYTES)
        if kind == BOOL:
            start = self.take(1, f"the value of {key}")
            if self.source[start] > 1:
                raise self.error("invalid bool", at=start, name=key, expected="0 or 1", got=self.source[start])
            return bool(self.source[start])
        dtype = np.dtype(SCALARS[kind])
        start = self.take(dtype.itemsize, f"the value of {key}")
        value: int | float = np.frombuffer(self.source, dtype, 1, start)[0].item()
        return value

    def value(self, key: str) -> MetaValue:
        start, kind = self.position, self.u32(f"the type of {key}")
        if kind != ARRAY:
            if kind not in SCALARS and kind not in (BOOL, STRING):
                raise self.error("unknown value type", at=start, name=key, expected="0 to 12", got=kind)
            return self.scalar(kind, key)
        start, kind = self.position, self.u32(f"the element type of {key}")
        if kind == ARRAY:
            where = f"{self.path}: {key}, byte {start}"
            raise UnsupportedError("array of arrays in metadata", where=where, hint="No known model has one")
        if kind == STRING:
            return self._strings(key)
        if kind not in SCALARS and kind != BOOL:
            raise self.error("unknown element type", at=start, name=key, expected="0 to 12", got=kind)
        dtype = np.dtype(SCALARS.get(kind, "<u1"))
        count = self.count(f"length of {key}", 1 << 62, dtype.itemsize)
        start = self.take(count * dtype.itemsize, key)
        array: NDArray[Any] = np.frombuffer(self.source, dtype, count, start)
        if kind != BOOL:
            return array
        if count and int(array.max()) > 1:
            raise self.error("invalid bool", at=start + int(array.argmax()), name=key, expected="0 or 1")
        return array.view(np.bool_)

    def _strings(self, key: str) -> StringArray:
        count = self.count(f"length of {key}", MAX_STRINGS - self.n_strings, 8)
        self.n_strings += count
        start = position = self.position
        source, length_at = self.source, _U64.unpack_from
        try:
            for _ in range(count):
                position += 8 + length_at(source, position)[0]
        except (struct.error, OverflowError):
            position = self.size + 1
        if position > self.size:
            raise self.error("file ends inside an array of strings", at=start, name=key)
        self.position = position
        return StringArray(source, start, position, count, f"{self.path}: {key}")


def check_version(cursor: HeaderCursor) -> int:
    """Read magic and version: 2 or 3, little-endian, or FormatError."""
    magic = cursor.source[: min(4, cursor.size)]
    if magic != MAGIC:
        raise cursor.error("not a GGUF file", expected=f"magic {MAGIC!r}", got=repr(magic))
    cursor.take(4, "the magic")
    version = cursor.u32("the version")
    if version in VERSIONS:
        return version
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise cursor.error(
            "big-endian GGUF", at=4, expected="little-endian", hint="Convert it with gguf-convert-endian"
        )
    raise cursor.error("unknown GGUF version", at=4, expected="2 or 3", got=version)
