"""Packed weights on disk: mapped when everything about a file is right, made again when anything is not."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tiny_models import write_tiny
from tritium import _native
from tritium.backends import cpu, packed
from tritium.backends.packed import ALIGNMENT, KEY_NAME, MAGIC, SUFFIX, PackedStore, stored
from tritium.engine.model import DEMO, load, resolve_model
from tritium.errors import FormatError, OutOfMemoryError
from tritium.formats import gguf
from tritium.formats.gguf import open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.ir import Resident, encode_plan
from tritium.layouts import LAYOUTS
from tritium.models import build_graph
from tritium.ops import OPS
from tritium.plan import make_plan

WANTED = [
    Resident(("a", "b"), "i2s", 16, 16, 5000),
    Resident(("c",), "i2s", 32, 16, 64),
    Resident(("d",), "i2s", 16, 8, 4096),
]


DIGESTS = partial(cpu.sha256_each, n_threads=2)


def content(resident: Resident) -> NDArray[np.uint8]:
    return np.random.default_rng(resident.nbytes).integers(0, 256, resident.nbytes, np.uint8)


class Packer:
    """Packs, and counts how often it is asked to."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, resident: Resident) -> NDArray[np.uint8]:
        self.n_calls += 1
        return content(resident)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK_BYTES", 4096)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "packed"


def residents(folder: Path, *, root: str = "r", version: int = 1) -> tuple[list[NDArray[np.uint8]] | None, int]:
    pack = Packer()
    return PackedStore(folder, lambda: root, DIGESTS).residents("i2s", version, WANTED, pack), pack.n_calls


def assert_content(arrays: list[NDArray[np.uint8]] | None) -> None:
    assert arrays is not None
    for resident, array in zip(WANTED, arrays, strict=True):
        assert (array == content(resident)).all()
        assert not array.flags.writeable
        assert array.ctypes.data % ALIGNMENT == 0


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("*" + SUFFIX)
    return path


def test_made_once_then_mapped(folder: Path) -> None:
    first, n_packed = residents(folder)
    assert_content(first)
    assert n_packed == len(WANTED)
    again, n_packed = residents(folder)
    assert_content(again)
    assert n_packed == 0
    assert stored(folder) == (1, the_file(folder).stat().st_size)
    assert the_file(folder).stat().st_mode & 0o777 == 0o600


def test_a_file_is_written_in_whole_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the file system would keep it in pages of other sizes."""
    sizes: list[int] = []

    class Counting(io.FileIO):
        def write(self, data: Any) -> int:
            sizes.append(len(data))
            return super().write(data)

    monkeypatch.setattr(packed, "PIECE_BYTES", 64)
    parts = [(16, np.arange(1, 101, dtype=np.uint8)), (130, np.full(62, 7, np.uint8)), (320, np.full(3, 9, np.uint8))]
    with Counting(tmp_path / "pieces", "w") as file:
        packed._write(file, 336, iter(parts))
    expected = np.zeros(336, np.uint8)
    for place, data in parts:
        expected[place : place + len(data)] = data
    assert (tmp_path / "pieces").read_bytes() == expected.tobytes()
    assert sizes == [64] * 5 + [16]


def test_another_model_or_version_has_a_file_of_its_own(folder: Path) -> None:
    residents(folder)
    assert residents(folder, root="s")[1] == residents(folder, version=2)[1] == len(WANTED)
    assert stored(folder)[0] == 3
    assert residents(folder)[1] == 0


def _flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return change


def _to_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _of_another_version(path: Path) -> None:
    """A whole file that this user made, under a name that is not its own."""
    old = path.read_bytes()
    path.unlink()
    residents(path.parent, version=2)
    other = the_file(path.parent)
    assert len(other.read_bytes()) == len(old)
    other.rename(path)


def _by_somebody_else(path: Path) -> None:
    """A whole file that has other weights and is sealed with another key."""
    data = bytearray(path.read_bytes())
    data[-4096:] = bytes(4096)
    start = len(data) - 4 * 4096
    digests = [hashlib.sha256(data[at : at + 4096]).digest() for at in range(start, len(data), 4096)]
    signed = MAGIC + data[len(MAGIC) : len(MAGIC) + 32] + b"".join(digests)
    sealed = signed + packed._seal(bytes(32), signed)
    data[: len(sealed)] = sealed
    path.write_bytes(data)


WRONG: dict[str, Callable[[Path], None]] = {
    "magic": _flip(0),
    "identity": _flip(len(MAGIC)),
    "a digest": _flip(len(MAGIC) + 32),
    "the seal": _flip(len(MAGIC) + 32 + 4 * 32),
    "the first byte": _flip(4096),
    "a later chunk": _flip(4096 + 3 * 4096 + 17),
    "the last byte": _flip(-1),
    "too short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut to the head": lambda path: os.truncate(path, 4096),
    "empty": lambda path: os.truncate(path, 0),
    "too long": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "a link": _to_link,
    "of another version": _of_another_version,
    "by somebody else": _by_somebody_else,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_is_not_right_is_made_again(folder: Path, wrong: str) -> None:
    residents(folder)
    WRONG[wrong](the_file(folder))
    arrays, n_packed = residents(folder)
    assert_content(arrays)
    assert n_packed == len(WANTED)
    arrays, n_packed = residents(folder)
    assert_content(arrays)
    assert n_packed == 0


def test_a_key_that_others_can_read_is_no_key(folder: Path) -> None:
    residents(folder)
    key = folder / KEY_NAME
    old = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    assert residents(folder)[1] == len(WANTED)
    assert key.read_bytes() != old
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(b"short")
    assert residents(folder)[1] == len(WANTED)
    assert len(key.read_bytes()) == 32


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert residents(folder) == (None, 0)
    folder = tmp_path / "other"
    residents(folder)
    _to_folder(the_file(folder))
    assert residents(folder)[0] is None
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []


def test_weights_that_cannot_be_packed_leave_nothing_behind(folder: Path) -> None:
    def refuse(resident: Resident) -> NDArray[np.uint8]:
        if resident is WANTED[2]:
            raise FormatError("invalid ternary code")
        return content(resident)

    with pytest.raises(FormatError, match="invalid ternary code"):
        PackedStore(folder, lambda: "r", DIGESTS).residents("i2s", 1, WANTED, refuse)
    assert [path.name for path in folder.iterdir()] == [KEY_NAME]


def test_the_oldest_go_when_there_are_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, root in enumerate("abc"):
        before = set(folder.glob("*")) if folder.exists() else set()
        residents(folder, root=root)
        for path in set(folder.glob("*" + SUFFIX)) - before:
            os.utime(path, (1000 + age, 1000 + age))
    (folder / "somebody's own file").write_text("stays")
    residents(folder, root="a")
    monkeypatch.setattr(packed, "LIMIT_BYTES", 3 * the_largest(folder))
    residents(folder, root="d")
    assert stored(folder)[0] == 3
    assert [residents(folder, root=root)[1] for root in "acd"] == [0, 0, 0]
    assert (folder / "somebody's own file").exists()


def the_largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.glob("*" + SUFFIX))


def test_a_disk_without_room_keeps_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SPARE_BYTES", 1 << 60)
    assert residents(folder) == (None, 0)


def test_a_model_runs_the_same_from_mapped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "relu2_mha_tied")
    monkeypatch.setenv("TRITIUM_CACHE", str(tmp_path / "cache"))
    ids, layouts = [1, 7, 3, 9, 2], set[str]()

    def logits(**options: bool) -> bytes:
        with load(path, threads=2, head_screen="on", **options) as model:
            layouts.update(r.layout for r in model.plan.residents if r.layout in {*cpu.PACKED} - {"i2_s"})
            return model.logits(ids).tobytes()

    expected = logits(weight_cache=True)
    assert not (tmp_path / "cache").exists()  # too small to gain
    monkeypatch.setattr(packed, "LEAST_BYTES", 0)
    assert logits(weight_cache=False) == expected
    monkeypatch.setenv("TRITIUM_WEIGHT_CACHE", "0")
    assert logits() == expected
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("TRITIUM_WEIGHT_CACHE")
    assert logits() == expected
    assert stored(tmp_path / "cache" / "packed")[0] == len(layouts)
    calls: list[str] = []
    monkeypatch.setattr(_native, "pack_i2s", lambda *_: calls.append("pack_i2s"))
    monkeypatch.setattr(_native, "pack_plane", lambda *_: calls.append("pack_plane"))
    assert logits() == expected
    assert calls == []


def test_what_is_packed_is_read_from_the_file_and_takes_no_memory(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "LEAST_BYTES", 0)

    def is_mapped(data: NDArray[np.uint8]) -> bool:
        base: Any = data
        while isinstance(base, np.ndarray):
            base = base.base
        return isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)

    with open_gguf(write_tiny(tmp_path / "tiny.gguf", "relu2_mha_tied")) as file:
        plan = make_plan(build_graph(file), cpu.backend(), ffn_sparsity="on")
        taken: list[int] = []
        arrays = cpu.residents(plan, file, 1, PackedStore(folder, file.root, DIGESTS), taken.append)
        kept = {*cpu.PACKED} - {"i2_s"}  # a copy of the file
        rows = [(r, data) for r, data in zip(plan.residents, arrays, strict=True) if r.layout in kept]
        assert {r.layout for r, _ in rows} == {"i2s", "i2s_columns"}
        assert all(is_mapped(data) for _, data in rows)
        assert taken[-1] == 0
        for expected, data in zip(cpu.residents(plan, file, 1), arrays, strict=True):
            np.testing.assert_array_equal(data, expected)


def test_too_little_memory_is_refused_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", "relu2_mha_tied")
    folder = tmp_path / "packed"
    with open_gguf(path) as file:
        plan = make_plan(build_graph(file), cpu.backend(), head_screen="on")
        binary = encode_plan(plan, OPS)
        packed_bytes = sum(r.nbytes for r in plan.residents if r.layout in cpu.PACKED)
        cache_bytes = 2 * 2 * 2 * plan.n_kv_heads * plan.head_dim * plan.kv_block * 100
        needed = packed_bytes + cache_bytes + plan.arena_bytes
        needed += sum(r.nbytes for r in plan.residents if r.layout == "f32")
        kept = PackedStore(folder, file.root, DIGESTS)
        monkeypatch.setattr(_native, "Program", lambda *_: None)

        def make(available: int, store: PackedStore | None = None) -> None:
            cpu.CpuProgram(plan, binary, file, 1, 100, store, available)

        make(needed)
        monkeypatch.setattr(packed, "LEAST_BYTES", 0)
        make(needed, kept)
        make(needed - packed_bytes + max(r.nbytes for r in plan.residents if r.layout in cpu.PACKED), kept)
        (folder / KEY_NAME).unlink()
        folder.chmod(0o755)
        monkeypatch.setattr(packed, "SPARE_BYTES", 1 << 60)
        for store in (None, kept):
            with pytest.raises(OutOfMemoryError, match="not enough memory: expected .* MiB available. Close") as caught:
                make(needed - 1, store)
            assert isinstance(caught.value, MemoryError)


def test_the_root_is_of_names_shapes_layouts_and_bytes(tmp_path: Path) -> None:
    one, two = (write_tiny(tmp_path / f"{seed}.gguf", "relu2_mha_tied", seed=seed) for seed in (1, 2))
    with open_gguf(one) as a, open_gguf(two) as b, open_gguf(one, i2s_layout="64") as c:
        assert a.root() == a.root(3)
        assert len({file.root() for file in (a, b, c)}) == 3
        with open_gguf(one) as d:
            assert d.fingerprints(2, cpu.sha256_each) == a.fingerprints()
        for row in a.fingerprints():
            assert row["sha256"] == hashlib.sha256(a.data(row["name"]).tobytes()).hexdigest()


def digest_of(data: bytes, piece: int) -> str:
    """What a tensor's digest is said to be, of a string in memory."""
    if len(data) <= piece:
        return hashlib.sha256(data).hexdigest()
    every = [hashlib.sha256(data[at : at + piece]).digest() for at in range(0, len(data), piece)]
    return hashlib.sha256(b"".join(every)).hexdigest()


def write_floats(path: Path, sizes: Sequence[int]) -> None:
    """A file of f16 tensors of so many bytes each, no two pieces of them alike."""
    rng = np.random.default_rng(7)
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "none")
        for n in sizes:
            writer.declare(f"of {n}", (n // 2,), "f16")
        for n in sizes:
            writer.write(f"of {n}", rng.integers(0, 256, n, np.uint8))


@pytest.mark.parametrize("piece", [1, 63, 64, 65, 126, 128, 129, 1000])
def test_the_digest_of_a_large_tensor_is_of_the_digests_of_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(gguf, "DIGEST_PIECE_BYTES", piece)
    write_floats(tmp_path / "m.gguf", (64, 2, 128, 130, 62, 640, 378))
    for way in (None, cpu.sha256_each):
        for n_threads in (1, 3):
            with open_gguf(tmp_path / "m.gguf") as file:
                for row in file.fingerprints(n_threads, way):
                    assert row["sha256"] == digest_of(file.data(row["name"]).tobytes(), piece), row["name"]


def test_pieces_of_digests_are_of_one_mebibyte(tmp_path: Path) -> None:
    """The size is part of what a root means."""
    piece = 1 << 20
    sizes = (piece - 2, piece, piece + 2, 2 * piece, 3 * piece + 4098)
    write_floats(tmp_path / "m.gguf", sizes)
    with open_gguf(tmp_path / "m.gguf") as a, open_gguf(tmp_path / "m.gguf") as b:
        found = a.fingerprints(2, cpu.sha256_each)
        assert found == b.fingerprints(2)
        assert [row["sha256"] for row in found] == [digest_of(a.data(f"of {n}").tobytes(), piece) for n in sizes]


def test_the_digests_of_a_large_tensor_as_a_small_tensor_have_another_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "DIGEST_PIECE_BYTES", 128)
    data = np.random.default_rng(3).integers(0, 256, 512, np.uint8).tobytes()
    digests = b"".join(hashlib.sha256(data[at : at + 128]).digest() for at in range(0, 512, 128))
    rows = []
    for content in (data, digests):
        with GGUFWriter(tmp_path / "m.gguf") as writer:
            writer.add("general.architecture", "none")
            writer.declare("a", (len(content) // 2,), "f16")
            writer.write("a", np.frombuffer(content, np.uint8))
        with open_gguf(tmp_path / "m.gguf") as file:
            rows.append((file.fingerprints()[0], file.root()))
    (large, root), (small, other) = rows
    assert large["sha256"] == small["sha256"]
    assert (large["nbytes"], small["nbytes"]) == (512, 128)
    assert root != other


@pytest.mark.parametrize("name", ["cpu_positive_example.json", "cpu_batch_example.json"])
def test_the_root_of_the_embedded_model_is_that_of_its_receipts(repository: Path, name: str) -> None:
    said = json.loads((repository / "docs/tdd/receipts" / name).read_bytes())["evidence"]["model"]
    for way in (None, cpu.sha256_each):
        with open_gguf(resolve_model(DEMO)) as file:
            assert file.fingerprints(2, way) == said["tensors"]
            assert file.root() == said["tensors_sha256"]


PACKED_BYTES = {
    ("i2s", 1): "7108c6177eda5c1881bfe8f1ce4df96c956a793764554a8dcfe4475ce03410a3",
    ("tq1", 2): "da23310db3127514519713aa4f397b81122fa2d36661d46636eba130a4dca5c6",
    ("i2_s", 1): "3cfa5d402d36d708e2a9709deb7e9ec86bc9ad578a27a329763b0c11cac193c9",
    ("i2s_groups", 1): "e035501c4c96659dad9b60a1063af4e346992000edd5e3ad6e4033329626bac9",
    ("i2s_columns", 1): "cc695103aacc3a2cf01cb7b53b2e54e78761346871d84907b229ecd5dfdfdcc8",
    ("plane44", 1): "21e771410ef36d0028090465268464b78456abf5bb6637dc024ba5287dfe50df",
}


def test_packed_bytes_change_only_with_their_version() -> None:
    """A file of an older version would be mapped by code that means something else."""
    found = {}
    trits = (np.arange(35 * 128, dtype=np.int64) ** 2 % 7 % 3 - 1).astype(np.int8).reshape(35, 128)
    part = (LAYOUTS["i2_s"].pack_trits(trits, np.array([0.75], np.float32)), 35, 128, 0.75, "128")
    found["i2s", cpu.PACKED["i2s"][0]] = _native.pack_i2s([part], 1)
    found["tq1", cpu.PACKED["tq1"][0]] = _native.pack_i2s([part], 1, "tq1")
    scales = np.arange(-4, 4, dtype=np.float32)
    blocks = LAYOUTS["tq2_0"].pack_trits(np.resize(trits, (4, 512)), scales)
    groups = cpu.PACKED["i2s_groups"][0]
    found["i2s_groups", groups] = _native.pack_i2s([(blocks, 4, 512, 0.0, "tq2_0")], 1, "i2s_groups")
    found["i2_s", cpu.PACKED["i2_s"][0]] = _native.pack_i2s_rows(*part, 1)
    found["i2s_columns", cpu.PACKED["i2s_columns"][0]] = _native.pack_i2s_columns(*part, 1)
    head = (np.arange(35 * 64, dtype=np.float32) % 97 - 48).astype(np.float16)
    found["plane44", cpu.PACKED["plane44"][0]] = _native.pack_plane(head.view(np.uint8), "f16", 35, 64, 1)
    assert {layout for layout, _ in found} == set(cpu.PACKED)
    assert {key: hashlib.sha256(data.tobytes()).hexdigest() for key, data in found.items()} == PACKED_BYTES


@pytest.mark.parametrize(("layout", "dtype"), [("f32", "<u4"), ("f16", "<u2"), ("bf16", "<u2")])
def test_a_number_that_is_not_finite_is_found_anywhere(layout: str, dtype: str) -> None:
    infinity = {"f32": 0x7F800000, "f16": 0x7C00, "bf16": 0x7F80}[layout]
    sign = 1 << (8 * np.dtype(dtype).itemsize - 1)
    for n in (1, 2, 3, 4, 7, (1 << 18) + 5):
        words = np.full(n, infinity - 1, dtype)
        words[::2] |= np.array(sign, dtype)
        for n_threads in (1, 3):
            assert _native.all_finite(words.view(np.uint8), layout, n_threads)
            for at in {0, n // 2, n - 1}:
                for bad in (infinity, infinity | 1, infinity | sign, 2 * sign - 1):
                    kept, words[at] = words[at], bad
                    assert not _native.all_finite(words.view(np.uint8), layout, n_threads)
                    words[at] = kept
    with pytest.raises(ValueError, match="layout q8_0"):
        _native.all_finite(np.zeros(8, np.uint8), "q8_0")


def test_a_file_is_renamed_while_nothing_maps_it_where_it_must_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = os.replace

    def replace(source: str, target: Path) -> None:
        assert source not in Path("/proc/self/maps").read_text(encoding="ascii")
        renamed(source, target)

    monkeypatch.setattr(packed, "MAPPED_MAY_MOVE", False)
    monkeypatch.setattr(packed.os, "replace", replace)
    for n in (len(WANTED), 0):
        kept, n_packed = residents(folder)
        assert_content(kept)
        assert n_packed == n
