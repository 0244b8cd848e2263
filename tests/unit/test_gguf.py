"""GGUF reader and writer: round trips, the reference reader and writer, laziness, atomic writes."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from tritium.errors import FormatError, ShapeError, UnsupportedError
from tritium.formats.gguf import StringArray, open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS


def write_example(path: Path, **options: int) -> dict[str, np.ndarray]:
    """A file with every value type and every layout; returns the trits or values that went in."""
    rng = np.random.default_rng(5)
    content: dict[str, np.ndarray] = {}
    with GGUFWriter(path, **options) as writer:
        writer.add("general.architecture", "bitnet-b1.58")
        writer.add("general.file_type", 40)
        for dtype in ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]:
            writer.add(f"scalar.{dtype}", np.dtype(dtype).type(3))
            writer.add(f"array.{dtype}", np.arange(5, dtype=dtype))
        writer.add("scalar.bool", True)
        writer.add("array.bool", np.array([True, False]))
        writer.add("text", "naïve ☃")
        writer.add("texts", ["a", "", "Ġé"])
        names = [name for name in LAYOUTS if name not in ("i2_s_64", "i2_s_4row")]
        for name in names:
            writer.declare(f"t.{name}", (4, 512), name)
        for name in names:
            layout = LAYOUTS[name]
            if layout.is_ternary:
                content[name] = rng.integers(-1, 2, (4, 512), dtype=np.int8)
                n_scales = 8 if layout.group else 1
                data = layout.pack_trits(content[name], np.full(n_scales, 0.5, np.float32))
            else:
                content[name] = rng.standard_normal((4, 512), dtype=np.float32)
                data = layout.pack(content[name])
            for start in range(0, len(data), 1000):
                writer.write(f"t.{name}", data[start : start + 1000])
    return content


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_what_is_written_is_read(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "m.gguf"
    content = write_example(path, alignment=alignment)
    with open_gguf(path) as file:
        assert file.version == 3
        assert file.alignment == alignment
        assert file.nbytes == path.stat().st_size
        for dtype in ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]:
            assert file.metadata[f"scalar.{dtype}"] == 3
            array = file.require(f"array.{dtype}", np.ndarray)
            assert array.dtype == dtype
            assert array.tolist() == [0, 1, 2, 3, 4]
            assert not array.flags.writeable
        assert file.metadata["scalar.bool"] is True
        assert file.require("array.bool", np.ndarray).tolist() == [True, False]
        assert file.require("text", str) == "naïve ☃"
        assert list(file.require("texts", StringArray)) == ["a", "", "Ġé"]
        assert file.require("texts", StringArray)[1:] == ["", "Ġé"]
        for name, values in content.items():
            info = file.tensors[f"t.{name}"]
            assert (info.shape, info.layout, info.offset % alignment) == ((4, 512), name, 0)
            assert not file.data(info.name).flags.writeable
            file.check(info.name)
            if LAYOUTS[name].is_ternary:
                assert (file.trits(info.name)[0] == values).all()
            else:
                expected = LAYOUTS[name].unpack(LAYOUTS[name].pack(values), values.shape)
                assert (file.unpack(info.name) == expected).all()


def test_the_gguf_package_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        writer.add("llama.context_length", 64)
        writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5)
        writer.add("tokenizer.ggml.tokens", ["x", "yé"])
        writer.add("tokenizer.ggml.scores", np.array([0.5, -1], np.float32))
        writer.add("tokenizer.ggml.add_bos_token", False)
        writer.declare("a.weight", (3, 256), "tq2_0")
        writer.declare("b.weight", (5,), "f32")
        trits = np.random.default_rng(1).integers(-1, 2, (3, 256), dtype=np.int8)
        writer.write("a.weight", LAYOUTS["tq2_0"].pack_trits(trits, np.ones(3, np.float32)))
        writer.write("b.weight", LAYOUTS["f32"].pack(np.arange(5, dtype=np.float32)))
    reader = gguf.GGUFReader(path)
    assert reader.fields["llama.context_length"].contents() == 64
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["x", "yé"]
    assert reader.fields["tokenizer.ggml.scores"].contents() == [0.5, -1]
    assert reader.fields["tokenizer.ggml.add_bos_token"].contents() is False
    first, second = reader.tensors
    assert first.shape.tolist() == [256, 3]
    assert (gguf.quants.dequantize(first.data, first.tensor_type) == trits).all()
    assert second.data.tolist() == [0, 1, 2, 3, 4]


def test_what_the_gguf_package_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([1.5, 2.5])
    values = np.random.default_rng(1).standard_normal((6, 32), dtype=np.float32)
    writer.add_tensor("x.weight", values)
    quantized = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("y.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(path) as file:
        assert file.require("llama.block_count", int) == 2
        assert list(file.require("tokenizer.ggml.tokens", StringArray)) == ["a", "b"]
        assert file.tensors["x.weight"].shape == (6, 32)
        assert (file.unpack("x.weight") == values).all()
        assert (file.data("y.weight") == quantized.reshape(-1)).all()


def test_copied_keys_keep_their_type(tmp_path: Path) -> None:
    write_example(tmp_path / "a.gguf")
    with open_gguf(tmp_path / "a.gguf") as source:
        keys = [key for key in source.metadata if key.startswith(("scalar", "array", "text"))]
        with GGUFWriter(tmp_path / "b.gguf") as writer:
            for key in keys:
                writer.copy(source, key)
        with open_gguf(tmp_path / "b.gguf") as copy:
            assert list(copy.metadata) == keys
            assert all(copy.raw(key) == source.raw(key) for key in keys)


def test_i2_s_orders_are_chosen_by_option(tmp_path: Path) -> None:
    trits = np.random.default_rng(7).integers(-1, 2, (8, 256), dtype=np.int8)
    for option, layout in (("128", "i2_s"), ("64", "i2_s_64"), ("4row", "i2_s_4row")):
        with GGUFWriter(tmp_path / "m.gguf") as writer:
            writer.add("general.file_type", 40)
            writer.declare("w", (8, 256), layout)
            writer.write("w", LAYOUTS[layout].pack_trits(trits, np.ones(1, np.float32)))
        with open_gguf(tmp_path / "m.gguf", i2s_layout=option) as file:
            assert file.tensors["w"].layout == layout
            assert (file.trits("w")[0] == trits).all()
    with pytest.raises(ShapeError, match="128 or 64 or 4row"):
        open_gguf(tmp_path / "m.gguf", i2s_layout="32")


def test_a_large_header_opens_fast_and_small(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    with GGUFWriter(path) as writer:
        writer.add("tokenizer.ggml.tokens", [f"token{i}" for i in range(131072)])
        writer.add("tokenizer.ggml.merges", [f"left{i} right{i}" for i in range(280000)])
        writer.add("tokenizer.ggml.token_type", np.ones(131072, np.int32))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        open_gguf(path).close()
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15
    tracemalloc.start()
    file = open_gguf(path)
    opened = tracemalloc.get_traced_memory()[1]
    tokens = file.require("tokenizer.ggml.tokens", StringArray)
    assert len(tokens) == 131072
    assert (tokens[0], tokens[-1]) == ("token0", "token131071")
    tracemalloc.stop()
    assert opened < 1 << 20


def test_the_vocabularies_of_a_known_engine_open(shared_data: Path) -> None:
    for name, count in (("ggml-vocab-llama-bpe", 128256), ("ggml-vocab-llama-spm", 32000)):
        with open_gguf(shared_data / "tokenizers" / f"{name}.gguf") as file:
            assert len(file.require("tokenizer.ggml.tokens", StringArray)) == count
            assert file.require("llama.vocab_size", int) == count
            assert not file.tensors


def test_typed_getters(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with GGUFWriter(path) as writer:
        writer.add("count", 3)
        writer.add("flag", True)
        writer.add("rate", float("nan"))
    with open_gguf(path) as file:
        assert file.require("count", float) == 3.0
        assert file.get("absent", int, 9) == 9
        for key, kind, message in (
            ("absent", int, "missing key: .*m.gguf: absent"),
            ("count", str, "wrong type: .*count, byte .*expected str, got int"),
            ("flag", int, "expected int, got bool"),
            ("count", bool, "expected bool, got int"),
            ("flag", float, "expected float, got bool"),
            ("rate", float, "not finite: .*rate"),
        ):
            with pytest.raises(FormatError, match=message):
                file.require(key, kind)
        with pytest.raises(FormatError, match=r"missing tensor: .*: nope"):
            file.data("nope")


def test_views_outlive_the_file(tmp_path: Path) -> None:
    content = write_example(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        view = file.data("t.f32")
    assert (view.view("<f4") == content["f32"].reshape(-1)).all()


def test_the_hash_is_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 2, 0, 0))
    with open_gguf(tmp_path / "m.gguf") as file:
        assert file.version == 2
        assert file.sha256() == "69cb86ffffe1039003092edf0dc9415a36b5016eae5f93b7300f97e7fe67dcd9"


@pytest.mark.parametrize(
    ("kind", "architecture", "file_type", "label"),
    [
        (36, "llama", 1, "IQ4_NL_4_4"),
        (37, "bitnet-b1.58", 40, "I8_S"),
        (38, "bitnet", None, "TL1"),
        (39, "llama", 39, "TL2"),
        (39, "gpt-oss", 38 + 0xFF, "MXFP4"),
        (42, "qwen3", 1, "Q2_0"),
        (14 - 2, "llama", 15, "Q4_K"),
        (77, "llama", 15, "unknown"),
    ],
)
def test_types_that_cannot_be_read_are_named(
    tmp_path: Path, kind: int, architecture: str, file_type: int | None, label: str
) -> None:
    path = tmp_path / "m.gguf"
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", architecture)
        if file_type is not None:
            writer.add("general.file_type", file_type)
        writer.declare("blk.0.w", (4, 256), "f16")
        writer.write("blk.0.w", np.zeros(2048, np.uint8))
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.0.w") + 7 + 4 + 16
    data[at : at + 4] = struct.pack("<I", kind)
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match=rf"tensor type: .*m.gguf: tensor blk.0.w: .* got {kind} \({label}"):
        open_gguf(path)


def test_i2_s_is_known_by_its_size_when_the_file_type_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with GGUFWriter(path) as writer:
        writer.declare("w", (4, 256), "i2_s")
        writer.write("w", np.zeros(LAYOUTS["i2_s"].nbytes((4, 256)), np.uint8))
    with open_gguf(path) as file:
        assert file.tensors["w"].layout == "i2_s"


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"before")

    def write(sizes: list[int]) -> None:
        with GGUFWriter(path) as writer:
            for name in "ab":
                writer.declare(name, (2,), "f32")
            for name, size in zip("ab", sizes, strict=True):
                writer.write(name, np.zeros(size, np.uint8))

    with pytest.raises(ShapeError, match="incomplete: b: expected 4 bytes more"):
        write([8, 4])
    with pytest.raises(ValueError, match="shorter"):
        write([8])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_writer_refuses_misuse(tmp_path: Path) -> None:
    with GGUFWriter(tmp_path / "m.gguf") as writer:
        writer.add("x", 1)
        with pytest.raises(ShapeError, match="key added twice"):
            writer.add("x", 2)
        for value in (-1, 1 << 32, [1, 2], np.zeros((2, 2)), np.zeros(2, np.complex64)):
            with pytest.raises(ShapeError, match="metadata"):
                writer.add("y", value)
        writer.declare("a", (2,), "f32")
        with pytest.raises(ShapeError, match="declared twice"):
            writer.declare("a", (2,), "f32")
        with pytest.raises(ShapeError, match="layout i2_s"):
            writer.declare("b", (3, 5), "i2_s")
        with pytest.raises(ShapeError, match="expected 8 bytes for a, got 12 for a"):
            writer.write("a", np.zeros(12, np.uint8))
        with pytest.raises(ShapeError, match="expected 8 bytes for a, got 8 for b"):
            writer.write("b", np.zeros(8, np.uint8))
        writer.write("a", np.zeros(8, np.uint8))
        with pytest.raises(ShapeError, match="after the first tensor data"):
            writer.add("z", 1)
        with pytest.raises(ShapeError, match="after the first tensor data"):
            writer.declare("z", (2,), "f32")
        with pytest.raises(ShapeError, match="for a declared tensor"):
            writer.write("a", np.zeros(8, np.uint8))
