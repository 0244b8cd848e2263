"""Files whose header is right and whose numbers are not: verification names file, tensor and byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tritium.errors import FormatError
from tritium.formats.gguf import open_gguf
from tritium.formats.gguf_writer import GGUFWriter
from tritium.layouts import LAYOUTS, Bytes

NAME = "blk.0.attn_q.weight"


def model(path: Path, layout: str, shape: tuple[int, ...], data: Bytes) -> int:
    """A one-tensor file; returns the tensor's offset."""
    with GGUFWriter(path) as writer:
        writer.add("general.file_type", 40)
        writer.declare(NAME, shape, layout)
        writer.write(NAME, data)
    with open_gguf(path) as file:
        return file.tensors[NAME].offset


def refusal(path: Path) -> str:
    with open_gguf(path) as file, pytest.raises(FormatError) as caught:
        file.check(NAME)
    assert caught.value.exit_code == 4
    return str(caught.value)


@pytest.mark.parametrize("layout", ["i2_s", "tq2_0"])
def test_code_3(tmp_path: Path, layout: str) -> None:
    path, row = tmp_path / "m.gguf", LAYOUTS[layout]
    n_scales = 16 if row.group else 1
    data = row.pack_trits(np.ones((8, 512), np.int8), np.ones(n_scales, np.float32))
    data[500] |= 1
    data[500] |= 2
    offset = model(path, layout, (8, 512), data)
    expected = f"invalid ternary code: {path}: tensor {NAME}, byte {offset + 500}: expected 0, 1 or 2, got 3"
    assert refusal(path) == expected
    with open_gguf(path) as file, pytest.raises(FormatError) as caught:
        file.trits(NAME)
    assert str(caught.value) == expected


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_scale_of_a_tensor(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "m.gguf"
    data = LAYOUTS["i2_s"].pack_trits(np.zeros((4, 256), np.int8), np.ones(1, np.float32))
    data[256:260] = np.array([scale], "<f4").view(np.uint8)
    offset = model(path, "i2_s", (4, 256), data)
    assert refusal(path) == f"scale is not finite: {path}: tensor {NAME}, byte {offset + 256}"


@pytest.mark.parametrize("layout", ["tq1_0", "tq2_0", "q6_k", "q8_0"])
def test_scale_of_a_block(tmp_path: Path, layout: str) -> None:
    path, row = tmp_path / "m.gguf", LAYOUTS[layout]
    data = row.pack(np.ones((4, 256), np.float32))
    at = 2 * row.block_bytes + row.scale_at
    data[at : at + 2] = np.array([np.nan], "<f2").view(np.uint8)
    offset = model(path, layout, (4, 256), data)
    assert refusal(path) == f"scale is not finite: {path}: tensor {NAME}, byte {offset + at}"


@pytest.mark.parametrize(("layout", "size"), [("f32", 4), ("f16", 2), ("bf16", 2)])
def test_value_of_a_norm(tmp_path: Path, layout: str, size: int) -> None:
    path = tmp_path / "m.gguf"
    data = LAYOUTS[layout].pack(np.ones(300, np.float32))
    data[299 * size : 300 * size] = 0xFF
    offset = model(path, layout, (300,), data)
    assert refusal(path) == f"value is not finite: {path}: tensor {NAME}, byte {offset + 299 * size}"
