"""Weight repacking against a NumPy definition of the panels, for every order of codes that a file can have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernel_cases import scaled_panels, trit_panels
from sparse_cases import columns
from tritium import _native
from tritium.layouts import I2S_LAYOUTS, LAYOUTS

SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    "128": ((16, 128), (17, 128), (1, 256), (33, 640), (32, 100), (128, 13), (64, 34), (48, 432), (2, 64), (128, 1)),
    "64": ((16, 64), (17, 64), (32, 100), (64, 13), (3, 128), (128, 1)),
    "4row": ((4, 1), (16, 16), (20, 100), (36, 13), (64, 128)),
    "tq1_0": ((1, 256), (16, 256), (17, 512), (35, 768)),
    "tq2_0": ((1, 256), (16, 256), (17, 512), (35, 768)),
}
FILE_LAYOUTS = {**I2S_LAYOUTS, "tq1_0": "tq1_0", "tq2_0": "tq2_0"}


def random_trits(rows: int, cols: int) -> NDArray[np.int8]:
    return np.random.default_rng(rows * 1000 + cols).integers(-1, 2, (rows, cols), dtype=np.int8)


def panels(parts: list[tuple[NDArray[np.int8], float]]) -> NDArray[np.uint8]:
    """The definition of kernel.h: code of row r, column 16·block + 4j + b in bits 2j, 2j + 1 of byte 4r + b of a block."""
    blocks, scales = [], []
    for trits, scale in parts:
        rows, cols = trits.shape
        codes = np.ones((-(-rows // 16) * 16, -(-cols // 16) * 16), np.uint8)
        codes[:rows, :cols] = (trits + 1).view(np.uint8)
        fields = codes.reshape(-1, 16, codes.shape[1] // 16, 4, 4).transpose(0, 2, 1, 4, 3)
        blocks.append((fields << np.array([0, 2, 4, 6], np.uint8)).sum(axis=-1, dtype=np.uint8).reshape(-1))
        scales += [scale] * (len(codes) // 16)
    scales += [0.0] * (-len(scales) % 16)
    return np.concatenate([*blocks, np.array(scales, np.float32).view(np.uint8)])


def file_part(trits: NDArray[np.int8], scale: float, dialect: str) -> tuple[NDArray[np.uint8], int, int, float, str]:
    layout = LAYOUTS[FILE_LAYOUTS[dialect]]
    data = layout.pack_trits(trits, np.full(trits.size // layout.group if layout.group else 1, scale, np.float32))
    return data, *trits.shape, scale, dialect


@pytest.mark.parametrize(("dialect", "shape"), [(d, s) for d, shapes in SHAPES.items() for s in shapes])
def test_a_tensor_becomes_panels(dialect: str, shape: tuple[int, int]) -> None:
    trits = random_trits(*shape)
    expected = panels([(trits, 0.75)])
    assert (_native.pack_i2s([file_part(trits, 0.75, dialect)]) == expected).all()
    assert (_native.pack_trits([(trits, 0.75)]) == expected).all()


@pytest.mark.parametrize(("dialect", "shape"), [(d, s) for d, shapes in SHAPES.items() for s in shapes])
def test_a_tensor_becomes_panels_of_five_digits_a_byte(dialect: str, shape: tuple[int, int]) -> None:
    trits = random_trits(*shape)
    expected = trit_panels(trits, 0.75).data
    assert (_native.pack_i2s([file_part(trits, 0.75, dialect)], 2, "tq1") == expected).all()
    assert (_native.pack_trits([(trits, 0.75)], 1, "tq1") == expected).all()


def test_stacked_tensors_of_digits_end_with_their_scales() -> None:
    parts = [(random_trits(rows, 250), 0.5 * (rows + 1)) for rows in (40, 16, 100, 3)]
    alone = [trit_panels(trits, scale) for trits, scale in parts]
    n_panels = [weight.rows // 16 for weight in alone]
    panels_of = [weight.data[: n * 4 * 256] for weight, n in zip(alone, n_panels, strict=True)]
    scales = np.zeros(16, np.float32)
    scales[: sum(n_panels)] = np.repeat(np.array([scale for _, scale in parts], np.float32), n_panels)
    expected = np.concatenate([*panels_of, scales.view(np.uint8)])
    assert (_native.pack_trits(parts, 3, "tq1") == expected).all()


def test_another_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="layout: expected i2s, tq1 or i2s_groups, got tq2"):
        _native.pack_i2s([GOOD], 1, "tq2")


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_tensors_are_stacked_each_from_a_whole_panel(n_threads: int) -> None:
    parts = [(random_trits(rows, 256), 0.5 * (rows + 1)) for rows in (40, 16, 100, 3, 801)]
    expected = panels(parts)
    mixed = [file_part(t, s, d) for (t, s), d in zip(parts, ("128", "tq1_0", "4row", "tq2_0", "64"), strict=True)]
    assert (_native.pack_i2s(mixed, n_threads) == expected).all()
    assert (_native.pack_trits(parts, n_threads) == expected).all()


def test_the_result_is_aligned_and_owns_its_memory() -> None:
    packed = _native.pack_trits([(random_trits(4096, 4096), 1.0)], 2)
    assert packed.ctypes.data % 64 == 0
    assert packed.flags.writeable
    kept = packed[-64:].copy()
    for _ in range(3):
        _native.pack_trits([(random_trits(16, 4096), 2.0)])
    assert (packed[-64:] == kept).all()


@pytest.mark.parametrize("dialect", sorted({*SHAPES} - {"tq1_0"}))  # every byte of which is five trits
@pytest.mark.parametrize("at", [0, 31, 1000, 4094, 4095])
def test_the_first_code_3_is_named(dialect: str, at: int) -> None:
    good = file_part(random_trits(64, 256), 1.0, dialect)
    bad = good[0].copy()
    bad[at] |= 0x0C
    bad[min(at + 40, 4095)] |= 0x03
    for n_threads in (1, 2):
        with pytest.raises(_native.CodeError, match=f"part 1, byte {at}") as caught:
            _native.pack_i2s([good, (bad, *good[1:]), (bad, *good[1:])], n_threads, "i2s" if at % 2 else "tq1")
        assert caught.value.args[1:] == (1, at)
        assert (caught.value.part, caught.value.offset) == (1, at)


def test_a_code_3_is_found_where_rows_share_blocks() -> None:
    data, *rest = file_part(random_trits(128, 13), 1.0, "128")
    for at in range(len(data) - 32):
        bad = data.copy()
        bad[at] |= 0xC0
        with pytest.raises(_native.CodeError, match=f"byte {at}:"):
            _native.pack_i2s([(bad, *rest)])


@pytest.mark.parametrize("value", [-128, -2, 2, 127])
def test_only_trits_are_packed(value: int) -> None:
    trits = random_trits(20, 30)
    trits[17, 5] = value
    with pytest.raises(_native.CodeError, match=f"part 0, byte {17 * 30 + 5}"):
        _native.pack_trits([(trits, 1.0)])


GOOD = file_part(random_trits(16, 128), 1.0, "128")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no parts"),
        ([(GOOD[0][:-1], *GOOD[1:])], "part 0: expected 544 bytes, got 543"),
        ([(GOOD[0], 16, 127, 1.0, "128")], "not a multiple of a block"),
        ([(GOOD[0], 0, 128, 1.0, "128")], "out of range"),
        ([(GOOD[0], -16, -128, 1.0, "128")], "out of range"),
        ([(GOOD[0], 2**40, 2**40, 1.0, "128")], "out of range"),
        ([(GOOD[0], 2, 1024, 1.0, "4row")], "rows: expected a multiple of 4"),
        ([GOOD, file_part(random_trits(8, 256), 1.0, "128")], "part 1: expected 128 columns, got 256"),
        ([(*GOOD[:4], "32")], "dialect: expected 128, 64, 4row, tq1_0 or tq2_0, got 32"),
        ([(np.zeros(264, np.uint8), 8, 128, 1.0, "tq2_0")], "not a multiple of a block"),
        ([(np.zeros(263, np.uint8), 4, 256, 1.0, "tq2_0")], "part 0: expected 264 bytes, got 263"),
    ],
)
def test_wrong_parts_are_refused(parts: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.pack_i2s(parts)


def test_threads_must_be_a_sensible_number() -> None:
    for n_threads in (0, -1):
        with pytest.raises(ValueError, match="n_threads"):
            _native.pack_i2s([GOOD], n_threads)


@pytest.mark.parametrize(("dialect", "shape"), [(d, s) for d, shapes in SHAPES.items() for s in shapes])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_tensor_becomes_columns(dialect: str, shape: tuple[int, int], n_threads: int) -> None:
    trits = random_trits(*shape)
    packed = _native.pack_i2s_columns(*file_part(trits, 0.75, dialect), n_threads)
    assert (packed == columns(trits, 0.75).data).all()


def test_columns_of_several_blocks() -> None:
    trits = random_trits(600, 256)
    assert (_native.pack_i2s_columns(*file_part(trits, 0.5, "128"), 2) == columns(trits, 0.5).data).all()


@pytest.mark.parametrize("at", [0, 37, 600 * 64 - 1])
def test_a_code_3_is_found_on_the_way_to_columns(at: int) -> None:
    data, *rest = file_part(random_trits(600, 256), 0.5, "128")
    broken = np.array(data)
    broken[at] |= 3
    with pytest.raises(_native.CodeError) as caught:
        _native.pack_i2s_columns(broken, *rest, 2)
    assert caught.value.args[1:3] == (0, at)


@pytest.mark.parametrize(
    ("dialect", "shape"), [(d, s) for d, shapes in SHAPES.items() for s in shapes if s[1] % 128 == 0]
)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_tensor_becomes_rows(dialect: str, shape: tuple[int, int], n_threads: int) -> None:
    trits = random_trits(*shape)
    expected = LAYOUTS["i2_s"].pack_trits(trits, np.array([0.75], np.float32))
    assert (_native.pack_i2s_rows(*file_part(trits, 0.75, dialect), n_threads) == expected).all()


def test_every_byte_of_tq1_0_is_five_trits() -> None:
    data = np.resize(np.arange(256, dtype=np.uint8), 54 * 256)
    trits, _ = LAYOUTS["tq1_0"].trits(np.where(np.arange(data.size) % 54 < 52, data, 0).astype(np.uint8), (256, 256))
    assert (_native.pack_i2s([(data, 256, 256, 0.75, "tq1_0")], 2) == panels([(trits, 0.75)])).all()


@pytest.mark.parametrize("at", [0, 63, 66 * 399 + 63])
def test_a_code_3_is_found_on_the_way_to_rows(at: int) -> None:
    data, *rest = file_part(random_trits(200, 512), 0.5, "tq2_0")
    broken = np.array(data)
    broken[at] |= 3
    broken[64::66] = 255  # scales are no codes
    with pytest.raises(_native.CodeError) as caught:
        _native.pack_i2s_rows(broken, *rest, 2)
    assert caught.value.args[1:3] == (0, at)


def test_rows_fill_blocks() -> None:
    with pytest.raises(ValueError, match="columns: expected a multiple of 128, got 64"):
        _native.pack_i2s_rows(*file_part(random_trits(4, 64), 1.0, "128"))


@pytest.mark.parametrize("dialect", ["tq1_0", "tq2_0"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_scale_a_block_is_a_scale_a_group_of_a_row(dialect: str, n_threads: int) -> None:
    parts, expected = [], []
    for rows in (40, 16, 3):
        trits = random_trits(rows, 768)
        scales = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float16)
        scales[0] = (6e-8, -0.0, 65504)
        scales = scales.astype(np.float32)
        parts.append((LAYOUTS[dialect].pack_trits(trits, scales), *trits.shape, 0.0, dialect))
        expected.append(scaled_panels(trits, scales).data)
    packed = _native.pack_i2s(parts, n_threads, "i2s_groups")
    assert packed.tobytes() == np.concatenate(expected).tobytes()


def test_a_tensor_of_one_scale_has_none_a_group() -> None:
    with pytest.raises(ValueError, match="part 0: expected a scale a group"):
        _native.pack_i2s([file_part(random_trits(16, 256), 1.0, "128")], 1, "i2s_groups")
