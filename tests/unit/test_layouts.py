"""Weight layouts: round trips, the formats' own formulas, refusals."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from tritium.errors import FormatError, NumericsError, ShapeError
from tritium.layouts import I2S_LAYOUTS, LAYOUTS

TERNARY = [name for name, row in LAYOUTS.items() if row.is_ternary]
FLOAT = [name for name, row in LAYOUTS.items() if not row.is_ternary]
SHAPES = [(4, 256), (12, 768), (64, 512)]

# The largest error of a pack and unpack round trip, as a share of the largest magnitude in a block.
ROUND_TRIP_BOUND = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11, "q6_k": 0.55 / 32 + 1 / 128}


def random_trits(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, shape, dtype=np.int8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TERNARY)
def test_trits_survive_a_round_trip(name: str, shape: tuple[int, int]) -> None:
    layout, trits = LAYOUTS[name], random_trits(shape)
    n_scales = trits.size // layout.group if layout.group else 1
    scales = np.linspace(0.5, 2, n_scales).astype(np.float16).astype(np.float32)
    data = layout.pack_trits(trits, scales)
    assert data.shape == (layout.nbytes(shape),)
    back, back_scales = layout.trits(data, shape)
    assert (back == trits).all()
    assert (back_scales.reshape(-1) == scales).all()
    values = layout.unpack(data, shape)
    assert (values.reshape(n_scales, -1) == trits.reshape(n_scales, -1) * scales[:, None]).all()
    assert (layout.pack(values) == data).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FLOAT)
def test_values_survive_a_round_trip(name: str, shape: tuple[int, int]) -> None:
    layout = LAYOUTS[name]
    values = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    values[0, :32] = 0
    back = layout.unpack(layout.pack(values), shape)
    block = max(layout.block, 1)
    largest = np.abs(values).reshape(-1, block).max(axis=1, keepdims=True)
    assert (np.abs(back - values).reshape(-1, block) <= largest * np.float32(ROUND_TRIP_BOUND[name])).all()


@pytest.mark.parametrize("name", ["f16", "bf16", "q8_0", "tq1_0", "tq2_0"])
def test_packing_equals_the_gguf_package(name: str) -> None:
    values = np.random.default_rng(3).standard_normal((16, 1024), dtype=np.float32)
    values[1] = 0
    values[2, ::3] = np.float32(0.5)
    oracle = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name.upper()])
    assert (LAYOUTS[name].pack(values) == oracle.reshape(-1).view(np.uint8)).all()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0", "q6_k", "tq1_0", "tq2_0"])
def test_unpacking_equals_the_gguf_package(name: str) -> None:
    layout, shape = LAYOUTS[name], (32, 1024)
    kind = gguf.GGMLQuantizationType[name.upper()]
    assert kind.value == layout.ggml_type
    assert gguf.GGML_QUANT_SIZES[kind] == (layout.block, layout.block_bytes)
    data = np.random.default_rng(4).integers(0, 256, layout.nbytes(shape), dtype=np.uint8)
    if layout.block == 1:
        words = data.view({4: "<u4", 2: "<u2"}[layout.block_bytes])
        words &= words.dtype.type({"f32": 0xBFFFFFFF, "f16": 0xBFFF, "bf16": 0xBFFF}[name])
    else:
        blocks = data.reshape(-1, layout.block_bytes)
        blocks[:, layout.scale_at : layout.scale_at + 2] = np.array([0.37], "<f2").view(np.uint8)
        if name == "tq2_0":
            blocks[:, :64] &= 0b10101010
    oracle = gguf.quants.dequantize(data.reshape(32, -1), kind)
    assert (layout.unpack(data, shape).view(np.uint32) == oracle.astype(np.float32).view(np.uint32)).all()


def test_i2_s_follows_the_published_order() -> None:
    trits = random_trits((2, 128))
    data = LAYOUTS["i2_s"].pack_trits(trits, np.array([0.25], np.float32))
    codes = trits.reshape(-1) + 1
    for block in range(2):
        for byte in range(32):
            parts = [int(codes[128 * block + byte + 32 * lane]) << (6 - 2 * lane) for lane in range(4)]
            assert data[32 * block + byte] == sum(parts)
    assert data[64:68].view("<f4")[0] == np.float32(0.25)
    assert len(data) == 64 + 32


def test_the_other_i2_s_orders() -> None:
    trits = random_trits((4, 64))
    codes = (trits + 1).astype(int)
    arm = LAYOUTS["i2_s_64"].pack_trits(trits, np.ones(1, np.float32))
    rows = LAYOUTS["i2_s_4row"].pack_trits(trits, np.ones(1, np.float32))
    assert int(arm[16 + 3]) == sum(int(codes[1, 3 + 16 * lane]) << (6 - 2 * lane) for lane in range(4))
    assert int(rows[5]) == sum(int(codes[row, 5]) << (6 - 2 * row) for row in range(4))
    assert {LAYOUTS[name].ggml_type for name in I2S_LAYOUTS.values()} == {36}


def test_tq2_0_code_order_and_tq1_0_density() -> None:
    trits = random_trits((1, 256))
    data = LAYOUTS["tq2_0"].pack_trits(trits, np.ones(1, np.float32))
    assert int(data[5]) == sum(int(trits[0, 5 + 32 * lane] + 1) << (2 * lane) for lane in range(4))
    assert LAYOUTS["tq1_0"].bits == 1.6875
    assert LAYOUTS["i2_s"].bits == 2


def test_q6_k_uses_both_ends_of_its_range() -> None:
    values = np.tile(np.array([-1, 31 / 32], np.float32), (1, 128))
    back = LAYOUTS["q6_k"].unpack(LAYOUTS["q6_k"].pack(values), (1, 256))
    assert np.abs(back - values).max() < 2**-10


@pytest.mark.parametrize("name", ["i2_s", "i2_s_64", "i2_s_4row", "tq2_0"])
@pytest.mark.parametrize("block", [0, 1, 37, 125])
def test_code_3_names_the_first_bad_byte(name: str, block: int) -> None:
    layout, shape = LAYOUTS[name], (64, 512)
    n_scales = 128 if layout.group else 1
    data = layout.pack_trits(random_trits(shape), np.ones(n_scales, np.float32))
    at = block * layout.block_bytes + min(7, layout.block_bytes - 1)
    data[at] |= 0b00001100
    data[at + 2 * layout.block_bytes] |= 0b11
    with pytest.raises(FormatError, match=rf"^invalid ternary code: blk.0.x, byte {1000 + at}: .*got 3$"):
        layout.check(data, shape, where="blk.0.x", offset=1000)
    with pytest.raises(FormatError, match=rf"byte {at}:"):
        layout.trits(data, shape)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["i2_s", "tq1_0", "tq2_0", "q8_0", "q6_k"])
def test_a_scale_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    layout, shape = LAYOUTS[name], (4, 512)
    data = np.zeros(layout.nbytes(shape), np.uint8)
    if layout.tail_bytes:
        at = len(data) - 32
        data[at : at + 4] = np.array([bad], "<f4").view(np.uint8)
    else:
        at = 3 * layout.block_bytes + layout.scale_at
        data[at : at + 2] = np.array([bad], "<f2").view(np.uint8)
    with pytest.raises(FormatError, match=rf"scale is not finite: t, byte {50 + at}$"):
        layout.check(data, shape, where="t", offset=50)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "size"), [("f32", 4), ("f16", 2), ("bf16", 2)])
def test_a_value_that_is_not_finite_is_refused(name: str, size: int, bad: float) -> None:
    layout = LAYOUTS[name]
    data = layout.pack(np.ones((3, 5), np.float32))
    wide = np.array([bad], np.float32)
    data[11 * size : 12 * size] = (wide.astype("<f2") if name == "f16" else wide).view(np.uint8)[-size:]
    with pytest.raises(FormatError, match=rf"value is not finite: t, byte {11 * size}$"):
        layout.check(data, (3, 5), where="t")


@pytest.mark.parametrize("scale", [0.0, -0.75])
def test_zero_and_negative_scales_are_exact(scale: float) -> None:
    layout, trits = LAYOUTS["i2_s"], random_trits((1, 128))
    data = layout.pack_trits(trits, np.array([scale], np.float32))
    assert (layout.unpack(data, (1, 128)) == trits * np.float32(scale)).all()


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_sizes_that_do_not_fit_are_refused(name: str) -> None:
    layout = LAYOUTS[name]
    with pytest.raises(ShapeError):
        layout.nbytes((0, 256))
    with pytest.raises(ShapeError):
        layout.unpack(np.zeros(layout.nbytes((4, 256)) - 1, np.uint8), (4, 256))
    if layout.block > 1:
        with pytest.raises(ShapeError, match=f"layout {name}"):
            layout.nbytes((3, layout.block + 1))


def test_packing_refuses_what_it_cannot_store() -> None:
    with pytest.raises(NumericsError, match="NaN"):
        LAYOUTS["q8_0"].pack(np.full((1, 32), np.nan, np.float32))
    with pytest.raises(NumericsError, match="float16"):
        LAYOUTS["f16"].pack(np.full((1, 32), 70000, np.float32))
    with pytest.raises(ShapeError, match="−1, 0, 1"):
        LAYOUTS["i2_s"].pack_trits(np.full((1, 128), 2, np.int8), np.ones(1, np.float32))
    with pytest.raises(ShapeError, match="scales"):
        LAYOUTS["tq2_0"].pack_trits(np.zeros((2, 256), np.int8), np.ones(1, np.float32))
    with pytest.raises(ShapeError, match="not ternary"):
        LAYOUTS["f16"].trits(np.zeros(2, np.uint8), (1,))


@pytest.mark.parametrize("name", ["tq1_0", "tq2_0"])
def test_blocks_of_the_same_scale_have_one(name: str) -> None:
    layout, trits = LAYOUTS[name], random_trits((8, 512))
    trits[2, 256:] = 0
    one = np.full(16, 0.75, np.float32)

    def scale(scales: np.ndarray) -> np.float32 | None:
        return layout.scale(layout.pack_trits(trits, scales), trits.shape)

    def changed(at: int, value: float) -> np.ndarray:
        scales = one.copy()
        scales[at] = value
        return scales

    assert scale(one) == np.float32(0.75)
    assert scale(-one) == np.float32(-0.75)
    assert scale(0 * one) == 0
    assert scale(changed(5, 0)) == np.float32(0.75), "a block of zeros"
    assert scale(changed(5, -0.0)) == np.float32(0.75)
    assert [
        scale(changed(at, value)) for at, value in ((4, 0), (5, 0.5), (0, 0), (15, np.nextafter(np.float16(0.75), 1)))
    ] == [None] * 4
    trits[0, :256] = 0
    assert scale(changed(0, 0)) == np.float32(0.75), "the first block"


def test_the_scale_of_a_tensor_is_behind_its_codes() -> None:
    layout, trits = LAYOUTS["i2_s"], random_trits((8, 512))
    data = layout.pack_trits(trits, np.array([-0.3], np.float32))
    assert layout.scale(data, trits.shape) == np.float32(-0.3)
    data[-32:-28] = 255
    with pytest.raises(FormatError, match=f"scale is not finite: t, byte {7 + 1024}$"):
        layout.scale(data, trits.shape, where="t", offset=7)
    with pytest.raises(ShapeError, match="not ternary: got f16"):
        LAYOUTS["f16"].scale(np.zeros(2, np.uint8), (1,))
