"""Write GGUF: keys and tensors are declared, then tensor data streams to disk in the order declared."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tritium.errors import ShapeError
from tritium.filesystem import sync_folder
from tritium.formats.gguf import DEFAULT_ALIGNMENT, GGUFFile
from tritium.formats.gguf_header import ARRAY, BOOL, MAGIC, SCALARS, STRING
from tritium.layouts import LAYOUTS, Bytes

VERSION = 3
_TYPE_OF_DTYPE = {np.dtype(dtype): kind for kind, dtype in SCALARS.items()} | {np.dtype(np.bool_): BOOL}

Value: TypeAlias = bool | int | float | str | np.generic | list[str] | tuple[str, ...] | NDArray[Any]


def _u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def _text(text: str) -> bytes:
    data = text.encode()
    return _u64(len(data)) + data


def encode_value(value: Value) -> bytes:
    """Type and payload of a metadata value.

    bool, str and lists of str as they are; int as u32, float as f32; NumPy scalars and 1-D arrays by their dtype.
    Errors: ShapeError for an int outside u32 and for other types.
    """
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, (list, tuple)):
        if not all(isinstance(text, str) for text in value):
            raise ShapeError("metadata list", expected="strings; a NumPy array for numbers")
        head = struct.pack("<IIQ", ARRAY, STRING, len(value))
        return head + b"".join(_text(text) for text in value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 1 << 32:
            raise ShapeError("metadata integer", expected="u32; a NumPy scalar for other types", got=value)
        value = np.uint32(value)
    elif isinstance(value, float):
        value = np.float32(value)
    array = np.asarray(value)
    kind = _TYPE_OF_DTYPE.get(array.dtype.newbyteorder("<"))
    if kind is None or array.ndim > 1:
        raise ShapeError("metadata value", expected="a GGUF scalar or 1-D array", got=f"{array.dtype} {array.shape}")
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return struct.pack("<I", kind) + data if array.ndim == 0 else struct.pack("<IIQ", ARRAY, kind, array.size) + data


class GGUFWriter:
    """A GGUF file in the making, as a context manager.

    ``add`` and ``copy`` keys and ``declare`` tensors first; the first ``write`` fixes the header. The file appears under its
    name, synced, when the block ends; if it ends in an error nothing is left.
    """

    def __init__(self, path: str | os.PathLike[str], *, alignment: int = DEFAULT_ALIGNMENT) -> None:
        self.path = Path(path)
        self._alignment = alignment
        self._keys: dict[str, bytes] = {}
        self._tensors: dict[str, tuple[tuple[int, ...], str, int]] = {}
        self._pending: list[tuple[str, int]] = []
        self._started = False
        if alignment != DEFAULT_ALIGNMENT:
            self.add("general.alignment", alignment)
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._file = open(self._part, "xb")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def add(self, key: str, value: Value) -> None:
        """Add a key; see ``encode_value`` for how Python types are stored."""
        self._add_raw(key, encode_value(value))

    def copy(self, source: GGUFFile, key: str) -> None:
        """Add a key with the type and value that it has in another file."""
        self._add_raw(key, source.raw(key))

    def _add_raw(self, key: str, value: bytes) -> None:
        if self._started:
            raise ShapeError("key added after the first tensor data", got=key)
        if key in self._keys:
            raise ShapeError("key added twice", got=key)
        self._keys[key] = value

    def declare(self, name: str, shape: tuple[int, ...], layout: str) -> None:
        """Announce a tensor, (out_features, in_features) for a matrix. Errors: ShapeError if the layout cannot hold it."""
        if self._started:
            raise ShapeError("tensor declared after the first tensor data", got=name)
        if name in self._tensors:
            raise ShapeError("tensor declared twice", got=name)
        self._tensors[name] = (shape, layout, LAYOUTS[layout].nbytes(shape))

    def write(self, name: str, data: Bytes) -> None:
        """Append bytes (n,) u8 to a tensor. Tensors come in declared order, each in as many pieces as is convenient."""
        if not self._started:
            self._start()
        if data.dtype != np.uint8 or not self._pending:
            raise ShapeError(f"bytes for {name}", expected="uint8 for a declared tensor", got=data.dtype)
        expected, missing = self._pending[0]
        if name != expected or data.size > missing:
            raise ShapeError("tensor data", expected=f"{missing} bytes for {expected}", got=f"{data.size} for {name}")
        self._file.write(np.ascontiguousarray(data).data)
        if data.size < missing:
            self._pending[0] = (name, missing - data.size)
        else:
            self._pending.pop(0)
            self._pad()

    def _start(self) -> None:
        """Write the header and the padding behind it."""
        parts = [MAGIC, struct.pack("<IQQ", VERSION, len(self._tensors), len(self._keys))]
        for key, value in self._keys.items():
            parts += [_text(key), value]
        offset = 0
        for name, (shape, layout, nbytes) in self._tensors.items():
            dims = b"".join(_u64(size) for size in reversed(shape))
            kind = LAYOUTS[layout].ggml_type
            parts += [_text(name), struct.pack("<I", len(shape)), dims, struct.pack("<IQ", kind, offset)]
            offset += -(-nbytes // self._alignment) * self._alignment
            self._pending.append((name, nbytes))
        self._file.write(b"".join(parts))
        self._pad()
        self._started = True

    def _pad(self) -> None:
        self._file.write(bytes(-self._file.tell() % self._alignment))

    def _finish(self) -> None:
        if not self._started:
            self._start()
        if self._pending:
            name, missing = self._pending[0]
            raise ShapeError("tensor data is incomplete", where=name, expected=f"{missing} bytes more")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self.path)
        sync_folder(self.path.parent)
