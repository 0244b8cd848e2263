"""Seeded mutations of a valid file: each opens and verifies, or gives one FormatError or UnsupportedError, fast."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tritium.errors import FormatError, UnsupportedError
from tritium.formats.gguf import StringArray, open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS

SECONDS_A_FILE = 1.0
BYTES_A_FILE = 4 << 20


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small model file: every kind of value, every layout."""
    path = tmp_path_factory.mktemp("fuzz") / "valid.gguf"
    rng = np.random.default_rng(11)
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "bitnet-b1.58")
        writer.add("general.alignment", 32)
        writer.add("general.file_type", 40)
        writer.add("bitnet-b1.58.attention.layer_norm_rms_epsilon", 1e-5)
        writer.add("tokenizer.ggml.add_bos_token", True)
        writer.add("tokenizer.ggml.tokens", [f"token{i}é" for i in range(60)])
        writer.add("tokenizer.ggml.scores", np.arange(60, dtype=np.float32))
        writer.add("flags", np.array([True, False, True]))
        shapes = dict.fromkeys(("i2_s", "tq1_0", "tq2_0", "q6_k"), (4, 256))
        shapes |= dict.fromkeys(("q8_0", "f16", "bf16", "f32"), (4, 32))
        for name, shape in shapes.items():
            writer.declare(f"blk.0.{name}", shape, name)
        for name, shape in shapes.items():
            layout = LAYOUTS[name]
            values = rng.standard_normal(shape, dtype=np.float32)
            writer.write(f"blk.0.{name}", layout.pack(np.sign(values) if layout.is_ternary else values))
    return path.read_bytes()


def outcome(path: Path) -> str:
    """Open the file, read all metadata and verify all tensors: "ok" or the name of the error."""
    try:
        with open_gguf(path) as file:
            for value in file.metadata.values():
                if isinstance(value, StringArray):
                    list(value)
            for name in file.tensors:
                file.check(name)
    except (FormatError, UnsupportedError) as error:
        return type(error).__name__ if str(path) in str(error) else f"an error without the path: {error}"
    return "ok"


def verify_all(path: Path, mutants: Iterator[bytes]) -> dict[str, int]:
    counts = {"ok": 0, "FormatError": 0, "UnsupportedError": 0}
    slowest = 0.0
    tracemalloc.start()
    try:
        for mutant in mutants:
            path.write_bytes(mutant)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            start = time.process_time()
            counts[outcome(path)] += 1
            slowest = max(slowest, time.process_time() - start)
            assert tracemalloc.get_traced_memory()[1] - before < BYTES_A_FILE
    finally:
        tracemalloc.stop()
    assert slowest < SECONDS_A_FILE
    return counts


def test_the_valid_file_verifies(tmp_path: Path, valid: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(valid)
    assert outcome(tmp_path / "m.gguf") == "ok"


def test_truncation_anywhere_is_a_format_error(tmp_path: Path, valid: bytes) -> None:
    cuts = sorted({*range(0, 2048, 3), *range(0, len(valid), 1024), *range(0, len(valid), 97), len(valid) - 33})
    counts = verify_all(tmp_path / "m.gguf", (valid[:cut] for cut in cuts))
    assert counts["ok"] == 0
    assert counts["FormatError"] == len(cuts)


def bit_flips(valid: bytes, rng: np.random.Generator, header_bytes: int, count: int) -> Iterator[bytes]:
    for index in range(count):
        mutant = np.frombuffer(valid, np.uint8).copy()
        limit = header_bytes if index % 4 else len(valid)
        for at in rng.integers(0, limit, rng.integers(1, 4)):
            mutant[at] ^= 1 << rng.integers(0, 8)
        yield mutant.tobytes()


def splices(valid: bytes, rng: np.random.Generator, header_bytes: int, count: int) -> Iterator[bytes]:
    """Overwrite, insert, delete or repeat a run of bytes; extreme integers as often as noise."""
    extremes = [
        bytes(8),
        b"\xff" * 8,
        b"\x01" + bytes(7),
        bytes(7) + b"\x10",
        bytes(7) + b"\x80",
        b"\xff" * 7 + b"\x7f",
    ]
    for index in range(count):
        at, size = int(rng.integers(0, header_bytes)), int(rng.integers(1, 64))
        piece = extremes[int(rng.integers(len(extremes)))] if index % 2 else rng.bytes(size)
        match index % 4:
            case 0 | 1:
                yield valid[:at] + piece + valid[at + len(piece) :]
            case 2:
                yield valid[:at] + piece + valid[at:]
            case _:
                yield valid[:at] + valid[at + size :]


@pytest.mark.parametrize(("mutate", "count"), [(bit_flips, 2500), (splices, 2500)])
def test_mutants_open_or_are_refused(tmp_path: Path, valid: bytes, mutate, count: int) -> None:
    header_bytes = valid.index(b"blk.0.f32") + 40
    counts = verify_all(tmp_path / "m.gguf", mutate(valid, np.random.default_rng(2024), header_bytes, count))
    assert sum(counts.values()) == count
    assert counts["FormatError"] > count // 4
    assert counts["UnsupportedError"] > 0
    assert counts["ok"] > 0
