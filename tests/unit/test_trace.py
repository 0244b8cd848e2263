"""The trace of a run: SHA-256 as the standard library has it, the same hashes on every path to the same bits."""

from __future__ import annotations

import hashlib
import random
from statistics import median
from typing import Any

import numpy as np
import pytest

import tritium
from tritium import _native
from tritium.engine.kv import blocks_for
from tritium.engine.model import Model, load
from tritium.evidence import trace
from tritium.executor import single_sequence
from tritium.types import StepResult

IDS = np.array([(i * 37) % 200 + 5 for i in range(40)], np.int32)


WAYS = _native.sha256_ways()


def test_there_is_always_a_way_to_sha256() -> None:
    assert WAYS[-1] == "portable"
    for call in (lambda: _native.sha256(b"", "unknown"), lambda: _native.sha256_each([], 1, "unknown")):
        with pytest.raises(ValueError, match=r"expected one of sha256_ways"):
            call()


@pytest.mark.parametrize("way", WAYS)
def test_sha256_is_the_standard_librarys(way: str) -> None:
    source = random.Random(0)
    for size in [*range(200), 1000, 4096, 100_001]:
        data = source.randbytes(size)
        assert _native.sha256(data, way) == hashlib.sha256(data).digest()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_sha256_of_each_of_several_strings_is_the_standard_librarys(n_threads: int, way: str) -> None:
    source = random.Random(n_threads)
    sizes = [*range(130), 1000, 0, 100_001, 64, 4096, 63]
    for n in (0, 1, 2, 3, 4, 7, 8, 9, len(sizes)):
        for _ in range(5):
            strings = [source.randbytes(size) for size in source.sample(sizes, n)]
            digests = _native.sha256_each([np.frombuffer(s, np.uint8) for s in strings], n_threads, way)
            assert digests == [hashlib.sha256(s).digest() for s in strings]


def hashes(model: Model, sizes: list[int]) -> tuple[bytes, bytes, bytes]:
    """Columns, hidden rows and quantized rows of IDS, forwarded in pieces of these sizes."""
    table = np.arange(blocks_for(len(IDS)), dtype=np.int32)
    parts: list[StepResult] = []
    start = 0
    for size in sizes:
        batch = single_sequence(IDS[start : start + size], start, table, all_outputs=True)
        parts.append(model.engine.executor.step(batch, "rows"))
        start += size
    assert start == len(IDS)
    joined = []
    for name in ("columns", "hidden", "rows"):
        arrays = [getattr(part, name) for part in parts]
        joined.append(b"".join(array.tobytes() for array in arrays))
    return joined[0], joined[1], joined[2]


@pytest.fixture(scope="module")
def expected() -> tuple[bytes, bytes, bytes]:
    with load("demo", backend="reference", max_context=64) as model:
        return hashes(model, [20, 20])


PIECES = {"one by one": [1] * 40, "threes and fours": [3, 4, 3, 30], "chunks": [32, 8]}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("pieces", PIECES)
def test_hashes_do_not_depend_on_chunks_or_threads(expected: Any, pieces: str, threads: int) -> None:
    with load("demo", threads=threads, max_context=64) as model:
        assert hashes(model, PIECES[pieces]) == expected


@pytest.mark.parametrize("isa", ["scalar", "avx2", "neon"])
def test_hashes_do_not_depend_on_the_instruction_set(expected: Any, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isa not in _native.isas():
        pytest.skip(f"{isa} does not run here")
    monkeypatch.setenv("TRITIUM_ISA", isa)
    with load("demo", max_context=64) as model:
        assert hashes(model, [1, 39 - 8, 8]) == expected


def test_a_column_is_made_of_rows(expected: Any) -> None:
    """By hand, from the model's own widths: four quantized rows a layer."""
    with load("demo", max_context=64) as model:
        widths = [int(n.attrs["k"]) for n in model.graph.nodes if n.op == "quantize"]
    columns, _, rows = expected
    size = sum(widths) + 4 * len(widths)
    assert len(rows) == size * len(IDS)
    first, digests, at = rows[:size], b"", 0
    for width in widths:
        digests += hashlib.sha256(first[at : at + width + 4]).digest()
        at += width + 4
    assert columns[:32] == hashlib.sha256(digests).digest()


def test_a_step_without_a_trace_has_none() -> None:
    with load("demo", max_context=64) as model:
        batch = single_sequence(IDS[:2], 0, np.zeros(1, np.int32), all_outputs=True)
        result = model.engine.executor.step(batch)
        assert (result.columns, result.hidden, result.rows) == (None, None, None)


@pytest.mark.parametrize("size", [1, 4])
def test_hashing_is_the_time_of_the_steps_whose_rows_it_hashes(size: int) -> None:
    """In the middle of the passes: a busy machine may stop within a step, or between two."""
    shares = []
    with load("demo", max_context=64) as model:
        executor, table = model.engine.executor, np.arange(blocks_for(len(IDS)), dtype=np.int32)
        for start in range(0, len(IDS), size):
            before = executor.trace()
            executor.step(single_sequence(IDS[start : start + size], start, table, all_outputs=True), "hashes")
            passed = executor.trace().since(before)
            shares.append(sum(count.ns for count in passed.counts) / passed.wall_ns)
    assert 0.95 < median(shares) <= 1


def test_every_part_of_a_leaf_counts() -> None:
    sound: dict[str, Any] = {"run": b"r" * 16, "nonce": "n", "position": 3, "token_in": 4, "column": b"c" * 32,
                             "hidden": b"h" * 32, "token_out": 5}  # fmt: skip
    others: dict[str, Any] = {"run": b"s" * 16, "nonce": None, "position": 4, "token_in": 5, "column": b"d" * 32,
                              "hidden": None, "token_out": None}  # fmt: skip
    leaves = {trace.trace_leaf(**sound)}
    leaves |= {trace.trace_leaf(**{**sound, name: value}) for name, value in others.items()}
    assert len(leaves) == 1 + len(others)


def test_a_missing_hash_leaves_no_trace() -> None:
    columns = {i: bytes([i]) * 32 for i in range(4)}
    hidden = {i: bytes([i]) * 32 for i in (2, 3)}
    leaves = trace.trace_leaves(bytes(16), None, [1, 2, 3, 4, 5], 0, 3, columns, hidden)
    assert leaves is not None
    assert len(leaves) == 4
    assert trace.trace_leaves(bytes(16), None, [1, 2, 3, 4, 5], 0, 2, columns, hidden) is None
    del columns[0]
    assert trace.trace_leaves(bytes(16), None, [1, 2, 3, 4, 5], 0, 3, columns, hidden) is None
    assert trace.trace_leaves(bytes(16), None, [1, 2, 3, 4, 5], 1, 3, columns, hidden) == leaves[1:]


def test_a_trace_asks_for_a_place_for_its_hashes() -> None:
    with load("demo", max_context=64) as model, pytest.raises(tritium.ShapeError):
        model.engine.executor.step(single_sequence(IDS[:0], 0, np.zeros(1, np.int32), all_outputs=True), "hashes")
