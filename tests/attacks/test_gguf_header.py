"""Malformed GGUF files, one idea each: one error that says what, where, expected and got; fast and in little memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from tritium.errors import FormatError, TritiumError, UnsupportedError
from tritium.formats.gguf import StringArray, open_gguf

HUGE = 1 << 60
KNOWN = "BF16, F16, F32, I2_S, Q6_K, Q8_0, TQ1_0, TQ2_0"


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def array(name: str, kind: int, count: int, payload: bytes) -> bytes:
    return key(name, 9, struct.pack("<IQ", kind, count) + payload)


def tensor(
    name: str | bytes, dims: tuple[int, ...], kind: int = 0, offset: int = 0, *, n_dims: int | None = None
) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dims)
    count = len(dims) if n_dims is None else n_dims
    return text(name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", kind, offset)


def file(
    *keys: bytes,
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + data


U32 = struct.pack("<I", 7)
ONE = key("k", 4, U32)
F32 = tensor("w", (8,))

# What goes wrong, the bytes, the error, its text behind the path.
ATTACKS: list[tuple[str, bytes, type[TritiumError], str]] = [
    ("empty", b"", FormatError, "file is empty: {}: byte 0"),
    ("one byte", b"G", FormatError, "not a GGUF file: {}: byte 0: expected magic b'GGUF', got b'G'"),
    (
        "other magic",
        b"GGML" + bytes(99),
        FormatError,
        "not a GGUF file: {}: byte 0: expected magic b'GGUF', got b'GGML'",
    ),
    ("magic only", b"GGUF", FormatError, "file ends inside the version: {}: byte 4: expected 4 bytes, got 0"),
    ("version 0", file(version=0), FormatError, "unknown GGUF version: {}: byte 4: expected 2 or 3, got 0"),
    ("version 1", file(version=1), FormatError, "unknown GGUF version: {}: byte 4: expected 2 or 3, got 1"),
    ("version 4", file(version=4), FormatError, "unknown GGUF version: {}: byte 4: expected 2 or 3, got 4"),
    (
        "big-endian",
        file(version=3 << 24),
        FormatError,
        "big-endian GGUF: {}: byte 4: expected little-endian. Convert it with gguf-convert-endian",
    ),
    (
        "absurd number of keys",
        file(n_keys=HUGE),
        FormatError,
        f"impossible number of keys: {{}}: byte 16: expected at most 0, got {HUGE}",
    ),
    (
        "absurd number of tensors",
        file(n_tensors=(1 << 64) - 1),
        FormatError,
        f"impossible number of tensors: {{}}: byte 8: expected at most 0, got {(1 << 64) - 1}",
    ),
    (
        "more keys than bytes",
        file(ONE, n_keys=40, data=bytes(64)),
        FormatError,
        "impossible number of keys: {}: byte 16: expected at most 7, got 40",
    ),
    (
        "one key too many",
        file(ONE, n_keys=2, data=bytes(64)),
        FormatError,
        "a key is empty or not printable: {}: byte 41: got ''",
    ),
    (
        "absurd key length",
        file(struct.pack("<Q", HUGE) + bytes(32)),
        FormatError,
        f"impossible length of a key: {{}}: byte 24: expected at most 32, got {HUGE}",
    ),
    (
        "key that is not UTF-8",
        file(key(b"a\xffb", 4, U32)),
        FormatError,
        "a key is not UTF-8: {}: byte 33",
    ),
    (
        "key with a control character",
        file(key("a\nb", 4, U32)),
        FormatError,
        "a key is empty or not printable: {}: byte 24: got 'a\\nb'",
    ),
    ("duplicate key", file(ONE, ONE), FormatError, "key occurs twice: {}: k, byte 41"),
    (
        "unknown value type",
        file(key("k", 13, U32)),
        FormatError,
        "unknown value type: {}: k, byte 33: expected 0 to 12, got 13",
    ),
    ("bool of 2", file(key("k", 7, b"\2")), FormatError, "invalid bool: {}: k, byte 37: expected 0 or 1, got 2"),
    (
        "absurd string length",
        file(key("k", 8, struct.pack("<Q", HUGE) + bytes(64))),
        FormatError,
        f"impossible length of the value of k: {{}}: byte 37: expected at most 83, got {HUGE}",
    ),
    (
        "string that is not UTF-8",
        file(key("k", 8, text(b"ab\xc0"))),
        FormatError,
        "the value of k is not UTF-8: {}: byte 47",
    ),
    (
        "absurd array length",
        file(array("k", 4, HUGE, bytes(64))),
        FormatError,
        f"impossible length of k: {{}}: byte 41: expected at most 19, got {HUGE}",
    ),
    (
        "array length that overflows 64 bits",
        file(array("k", 12, (1 << 61) + 1, bytes(64))),
        FormatError,
        f"impossible length of k: {{}}: byte 41: expected at most 9, got {(1 << 61) + 1}",
    ),
    (
        "absurd number of strings",
        file(array("k", 8, HUGE, bytes(64))),
        FormatError,
        f"impossible length of k: {{}}: byte 41: expected at most 9, got {HUGE}",
    ),
    (
        "string in an array that leaves the file",
        file(array("k", 8, 2, text("ab") + struct.pack("<Q", (1 << 64) - 9) + bytes(9))),
        FormatError,
        "file ends inside an array of strings: {}: k, byte 49",
    ),
    (
        "array of arrays",
        file(array("k", 9, 1, struct.pack("<IQ", 9, 1) * 1000)),
        UnsupportedError,
        "array of arrays in metadata: {}: k, byte 37. No known model has one",
    ),
    (
        "unknown element type",
        file(array("k", 99, 1, bytes(8))),
        FormatError,
        "unknown element type: {}: k, byte 37: expected 0 to 12, got 99",
    ),
    (
        "bool of 9 in an array",
        file(array("k", 7, 4, b"\1\0\t\1")),
        FormatError,
        "invalid bool: {}: k, byte 51: expected 0 or 1",
    ),
    (
        "alignment 0",
        file(key("general.alignment", 4, bytes(4))),
        FormatError,
        "impossible alignment: {}: general.alignment, byte 49: expected a power of two, 8 to 65536, got 0",
    ),
    (
        "alignment 24",
        file(key("general.alignment", 4, struct.pack("<I", 24))),
        FormatError,
        "impossible alignment: {}: general.alignment, byte 49: expected a power of two, 8 to 65536, got 24",
    ),
    (
        "alignment as text",
        file(key("general.alignment", 8, text("32"))),
        FormatError,
        "wrong type: {}: general.alignment, byte 49: expected int, got str",
    ),
    (
        "duplicate tensor",
        file(tensors=(F32, tensor("w", (8,), offset=32)), data=bytes(64)),
        FormatError,
        "tensor occurs twice: {}: w, byte 57",
    ),
    (
        "absurd tensor name",
        file(tensors=(struct.pack("<Q", 70000) + bytes(80000),)),
        FormatError,
        "impossible length of a tensor name: {}: byte 24: expected at most 65535, got 70000",
    ),
    (
        "no dimensions",
        file(tensors=(tensor("w", (), n_dims=0),), data=bytes(32)),
        FormatError,
        "impossible number of dimensions: {}: w, byte 24: expected 1 to 4, got 0",
    ),
    (
        "five dimensions",
        file(tensors=(tensor("w", (1,) * 5),), data=bytes(32)),
        FormatError,
        "impossible number of dimensions: {}: w, byte 24: expected 1 to 4, got 5",
    ),
    (
        "four billion dimensions",
        file(tensors=(tensor("w", (1,), n_dims=(1 << 32) - 1),), data=bytes(32)),
        FormatError,
        f"impossible number of dimensions: {{}}: w, byte 24: expected 1 to 4, got {(1 << 32) - 1}",
    ),
    (
        "dimension 0",
        file(tensors=(tensor("w", (8, 0)),), data=bytes(32)),
        FormatError,
        "impossible dimension: {}: w, byte 24: expected 1 to 2⁶³ − 1, got (0, 8)",
    ),
    (
        "negative dimension",
        file(tensors=(tensor("w", ((1 << 64) - 8,)),), data=bytes(32)),
        FormatError,
        f"impossible dimension: {{}}: w, byte 24: expected 1 to 2⁶³ − 1, got ({(1 << 64) - 8},)",
    ),
    (
        "dimensions whose product overflows to 0",
        file(tensors=(tensor("w", (1 << 32, 1 << 32)),), data=bytes(32)),
        FormatError,
        f"file ends inside a tensor: {{}}: w, byte 96: expected {(1 << 66) + 96} bytes, got 128",
    ),
    (
        "offset that overflows",
        file(tensors=(tensor("w", (8,), offset=(1 << 64) - 32),), data=bytes(32)),
        FormatError,
        f"file ends inside a tensor: {{}}: w, byte {(1 << 64) + 32}: expected {(1 << 64) + 64} bytes, got 96",
    ),
    (
        "misaligned tensor",
        file(tensors=(tensor("w", (8,), offset=4),), data=bytes(64)),
        FormatError,
        "misaligned tensor: {}: w, byte 24: expected a multiple of 32, got 4",
    ),
    (
        "tensor beyond the file",
        file(tensors=(tensor("w", (8,), offset=32),), data=bytes(32)),
        FormatError,
        "file ends inside a tensor: {}: w, byte 96: expected 128 bytes, got 96",
    ),
    (
        "tensors at one offset",
        file(tensors=(F32, tensor("v", (8,))), data=bytes(32)),
        FormatError,
        "tensors overlap: {}: w, byte 96: expected at most 0 bytes, got 32, and another tensor there",
    ),
    (
        "tensor that reaches into the next",
        file(tensors=(tensor("v", (8,), offset=32), tensor("w", (9,))), data=bytes(64)),
        FormatError,
        "tensors overlap: {}: w, byte 128: expected at most 32 bytes, got 36, and another tensor there",
    ),
    (
        "unknown tensor type",
        file(tensors=(tensor("w", (32,), 1 << 31),), data=bytes(64)),
        UnsupportedError,
        f"tensor type: {{}}: tensor w: expected one of {KNOWN}, got 2147483648 (unknown)",
    ),
    (
        "row that is not whole blocks",
        file(tensors=(tensor("w", (48, 2), 8),), data=bytes(128)),
        FormatError,
        "shape does not fit layout q8_0: {}: w, byte 24: expected a multiple of 32 elements a row, got (2, 48)",
    ),
    (
        "I2_S without room for its scale",
        file(key("general.file_type", 4, struct.pack("<I", 40)), tensors=(tensor("w", (128, 2), 36),), data=bytes(64)),
        FormatError,
        "file ends inside a tensor: {}: w, byte 128: expected 224 bytes, got 192",
    ),
    (
        "type 36 of another size and file type",
        file(tensors=(tensor("w", (128, 2), 36),), data=bytes(1024)),
        UnsupportedError,
        f"tensor type: {{}}: tensor w: expected one of {KNOWN}, got 36 (IQ4_NL_4_4, removed)",
    ),
]


@pytest.mark.parametrize(("data", "kind", "message"), [row[1:] for row in ATTACKS], ids=[row[0] for row in ATTACKS])
def test_attack(tmp_path: Path, data: bytes, kind: type[TritiumError], message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(TritiumError) as caught:
            open_gguf(path)
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value) == message.format(path)
    assert type(caught.value) is kind
    assert caught.value.exit_code == 4
    assert seconds < 1
    assert peak < 1 << 20


def test_invalid_utf_8_in_an_array_names_the_element_when_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file(array("tokens", 8, 2, text("a") + text(b"b\xf0"))))
    with open_gguf(path) as opened:
        tokens = opened.require("tokens", StringArray)
        with pytest.raises(FormatError) as caught:
            tokens[0]
    assert str(caught.value) == f"string is not UTF-8: {path}: tokens[1], byte 72"


def test_a_header_of_as_many_tensors_as_are_allowed_is_refused_in_time(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    names = tuple(tensor(f"{i:x}", (8,), offset=32 * i) for i in range(20000))
    path.write_bytes(file(tensors=names, data=bytes(32)))
    start = time.process_time()
    with pytest.raises(FormatError, match=r"^file ends inside a tensor: .*: 1, byte"):
        open_gguf(path)
    assert time.process_time() - start < 1


def test_more_text_than_a_header_holds(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    size = 1 << 24
    path.write_bytes(file(*(key(f"k{i}", 8, text(bytes(size))) for i in range(4))))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            open_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    where = f"{path}: byte {24 + 3 * (22 + size) + 14}: expected at most {size - 8}, got {size}"
    assert str(caught.value) == f"impossible length of the value of k3: {where}"
    assert peak < 100 << 20


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"^not a regular file: /dev/zero$"):
        open_gguf("/dev/zero")
    with pytest.raises(IsADirectoryError):
        open_gguf(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_gguf(tmp_path / "absent.gguf")


@pytest.mark.parametrize(
    "strings",
    [
        [],
        [""],
        ["", "", ""],
        ["a", "", "bc", ""],
        ["\0", "a", ""],
        ["a\0b", " \n ", "\n", "c d"],
        ["Ġ" * 128, "x" * 255, "y" * 256, "z" * 70_000],
        ["☃", "🤖", "é", "\x01\x00\x00\x00\x00\x00\x00\x00"],
    ],
)
def test_an_array_of_strings_reads_as_it_stands(tmp_path: Path, strings: list[str]) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file(array("texts", 8, len(strings), b"".join(map(text, strings))), ONE))
    for separator in ("\0", " \n ", "12345678"):
        with open_gguf(path) as opened:
            texts = opened.require("texts", StringArray)
            assert texts.joined(separator) == separator.join(strings)
            assert list(texts) == strings
            assert texts.joined(separator) == separator.join(strings)
            assert opened.metadata["k"] == 7


@pytest.mark.parametrize(
    ("strings", "element", "byte"),
    [
        ([b"a", b"\xc3", b"\xa9"], 1, 0),  # one code point between them, none in either
        ([b"ab\xe2\x98", b"\x83"], 0, 2),
        ([b"", b"a\0", b"\x80"], 2, 0),
        ([b"ok", b"\0\0\xff\0", b"\xff"], 1, 2),
        ([b"\xed\xa0\x80"], 0, 0),
    ],
)
def test_strings_that_are_utf_8_only_together_are_refused(
    tmp_path: Path, strings: list[bytes], element: int, byte: int
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file(array("texts", 8, len(strings), b"".join(map(text, strings)))))
    at = 24 + len(text("texts")) + 4 + 4 + 8 + sum(8 + len(s) for s in strings[:element]) + 8 + byte
    with open_gguf(path) as opened:
        texts = opened.require("texts", StringArray)
        for read in (lambda: texts.joined(" \n "), lambda: texts[0], lambda: texts.joined("\0")):
            with pytest.raises(FormatError) as caught:
                read()
            assert str(caught.value) == f"string is not UTF-8: {path}: texts[{element}], byte {at}"
