"""Weight layouts: how the numbers of a tensor stand in its bytes. One row of ``LAYOUTS`` each; the codecs are NumPy.

A tensor is a run of blocks of ``block`` weights in ``block_bytes`` bytes, row-major. Ternary layouts decode to trits
and scales, the others to float32. Scales always multiply: w = scale · trit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritium.errors import FormatError, NumericsError, ShapeError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Trits = NDArray[np.int8]

# Blocks are converted about this many weights at a time, so that temporaries stay in cache and small beside the result.
_CHUNK_WEIGHTS = 1 << 20


def _chunks(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _round_half_away(x: Floats) -> Floats:
    magnitude = np.abs(x)
    whole = np.floor(magnitude)
    rounded: Floats = np.copysign(whole + (magnitude - whole >= np.float32(0.5)), x).astype(np.float32)
    return rounded


def _inverse(x: Floats) -> Floats:
    """1/x, and 0 where x is 0: a block of zeros has scale 0."""
    out = np.zeros_like(x)
    np.divide(np.float32(1), x, out=out, where=x != 0)
    return out


def _f16(x: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        half = x.astype("<f2")
    if not np.isfinite(half).all():
        raise NumericsError("a value does not fit float16", expected="|x| ≤ 65504", got=f"{np.abs(x).max()}")
    return half.view(np.uint8)


def _unpack_f32(blocks: Bytes) -> Floats:
    return blocks.view("<f4").astype(np.float32, copy=False)


def _pack_f32(x: Floats) -> Bytes:
    return np.ascontiguousarray(x, dtype="<f4").view(np.uint8)


def _unpack_f16(blocks: Bytes) -> Floats:
    return blocks.view("<f2").astype(np.float32)


def _unpack_bf16(blocks: Bytes) -> Floats:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _pack_bf16(x: Floats) -> Bytes:
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2").view(np.uint8)


def _unpack_q8_0(blocks: Bytes) -> Floats:
    """Block: f16 scale, 32 int8."""
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return blocks[:, 2:].view(np.int8).astype(np.float32) * scale


def _pack_q8_0(x: Floats) -> Bytes:
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    q = _round_half_away(x * _inverse(scale)).astype(np.int8)
    return np.concatenate([_f16(scale), q.view(np.uint8)], axis=1)


_NIBBLES = np.array([[0], [4]], np.uint8)
_PAIRS = np.array([[0], [2], [4], [6]], np.uint8)


def _unpack_q6_k(blocks: Bytes) -> Floats:
    """Block: 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 sub-scales, f16 scale."""
    nibbles = (blocks[:, :128].reshape(-1, 2, 1, 64) >> _NIBBLES) & np.uint8(15)
    pairs = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _PAIRS) & np.uint8(3)
    q = (nibbles.reshape(-1, 16, 16) | (pairs.reshape(-1, 16, 16) << np.uint8(4))).view(np.int8) - np.int8(32)
    scale = blocks[:, 208:210].copy().view("<f2").astype(np.float32)
    scales = scale * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (scales[:, :, None] * q.astype(np.float32)).reshape(-1, 256)


def _pack_q6_k(x: Floats) -> Bytes:
    parts = x.reshape(-1, 16, 16)
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    wanted = extreme / np.float32(-32)
    largest = np.take_along_axis(wanted, np.abs(wanted).argmax(axis=1)[:, None], axis=1)
    scale = largest / np.float32(-128)
    stored = _f16(scale)
    sub = np.clip(np.rint(wanted * _inverse(scale)), -128, 127).astype(np.int8)
    step = stored.view("<f2").astype(np.float32) * sub.astype(np.float32)
    q = (np.clip(np.rint(parts * _inverse(step)[:, :, None]), -32, 31) + 32).astype(np.uint8)
    low = (q & 15).reshape(-1, 2, 2, 64)
    high = (q >> 4).reshape(-1, 2, 4, 32) << _PAIRS
    nibbles = (low[:, :, 0] | (low[:, :, 1] << 4)).reshape(-1, 128)
    pairs = np.bitwise_or.reduce(high, axis=2).reshape(-1, 64)
    return np.concatenate([nibbles, pairs, sub.view(np.uint8), stored], axis=1)


def _unpack_pairs(blocks: Bytes, shifts: tuple[int, ...], run: int) -> Bytes:
    """Bit pairs of runs of ``run`` bytes: first every byte's pair at shifts[0], then at shifts[1], …"""
    runs = blocks.reshape(len(blocks), -1, run)
    out = np.empty((len(blocks), runs.shape[1], 4, run), np.uint8)
    for lane, shift in enumerate(shifts):
        np.bitwise_and(runs >> np.uint8(shift), 3, out=out[:, :, lane])
    return out.reshape(len(blocks), -1)


def _pack_pairs(codes: Bytes, shifts: tuple[int, ...], run: int) -> Bytes:
    lanes = codes.reshape(len(codes), -1, 4, run)
    out = lanes[:, :, 0] << np.uint8(shifts[0])
    for lane in (1, 2, 3):
        out |= lanes[:, :, lane] << np.uint8(shifts[lane])
    return out.reshape(len(codes), -1)


def _pairs(shifts: tuple[int, int, int, int], run: int) -> tuple[Callable[[Bytes], Bytes], Callable[[Bytes], Bytes]]:
    return (lambda blocks: _unpack_pairs(blocks, shifts, run)), (lambda codes: _pack_pairs(codes, shifts, run))


_TQ1_RUNS = ((0, 32, 5), (32, 48, 5), (48, 52, 4))
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


def _unpack_tq1_0(blocks: Bytes) -> Bytes:
    """Five trits a byte as a base-3 fraction of 256: digit n is the carry of 3 · (byte · 3ⁿ mod 256)."""
    parts = []
    for start, stop, digits in _TQ1_RUNS:
        shifted = blocks[:, None, start:stop] * _POWERS[None, :digits, None]
        parts.append(((shifted.astype(np.uint16) * 3) >> 8).astype(np.uint8).reshape(len(blocks), -1))
    return np.concatenate(parts, axis=1)


def _pack_tq1_0(codes: Bytes) -> Bytes:
    parts, first = [], 0
    for start, stop, digits in _TQ1_RUNS:
        size = stop - start
        trits = codes[:, first : first + digits * size].reshape(len(codes), digits, size).astype(np.uint16)
        first += digits * size
        value = np.zeros((len(codes), size), np.uint16)
        for digit in range(5):
            value *= np.uint16(3)
            if digit < digits:
                value += trits[:, digit]
        # Rounding the fraction up makes every digit's carry come out despite the truncation to eight bits.
        parts.append(((value * np.uint16(256) + np.uint16(242)) // np.uint16(243)).astype(np.uint8))
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to store a tensor.

    ``decode`` turns blocks (B, block_bytes) u8 into (B, block): f32 values, or for a ternary layout u8 codes, 0 → −1,
    1 → 0, 2 → +1, 3 invalid; ``encode`` is its inverse. ``group`` is None for float layouts; else the number of weights
    that share a scale, 0 for the whole tensor. A tensor's scale is an f32 at the start of ``tail_bytes`` behind the
    blocks; a block's is an f16 at byte ``scale_at``. ``flat`` blocks run over row ends. With ``interleaved_rows`` = 4 a
    block holds one column of four rows.
    """

    name: str
    block: int
    block_bytes: int
    ggml_type: int
    file_type: int
    source: str
    decode: Callable[[Bytes], NDArray[np.generic]]
    encode: Callable[[NDArray[Any]], Bytes]
    group: int | None = None
    tail_bytes: int = 0
    scale_at: int = 0
    flat: bool = False
    interleaved_rows: int = 1

    @property
    def bits(self) -> float:
        """Bits a weight, the tail left out."""
        return 8 * self.block_bytes / self.block

    @property
    def is_ternary(self) -> bool:
        return self.group is not None

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape, (…, in_features). Errors: ShapeError if it cannot be cut into blocks."""
        count = math.prod(shape)
        unit = count if self.flat else shape[-1]
        if not shape or min(shape) < 1 or unit % self.block:
            expected = f"a multiple of {self.block} elements" + ("" if self.flat else " a row")
            raise ShapeError(f"shape does not fit layout {self.name}", expected=expected, got=shape)
        if self.interleaved_rows > 1 and (len(shape) != 2 or shape[0] % self.interleaved_rows):
            expected = f"two dimensions, rows a multiple of {self.interleaved_rows}"
            raise ShapeError(f"shape does not fit layout {self.name}", expected=expected, got=shape)
        return count // self.block * self.block_bytes + self.tail_bytes

    def _blocks(self, data: Bytes, shape: tuple[int, ...]) -> Bytes:
        size = self.nbytes(shape)
        if data.dtype != np.uint8 or data.shape != (size,):
            got = f"{data.dtype} {data.shape}"
            raise ShapeError(f"bytes of a {self.name} tensor {shape}", expected=f"uint8 ({size},)", got=got)
        return data[: size - self.tail_bytes].reshape(-1, self.block_bytes)

    def unpack(self, data: Bytes, shape: tuple[int, ...], *, where: str = "data", offset: int = 0) -> Floats:
        """Decode to float32: data (nbytes,) u8 → (…shape) f32. Ternary: scale · trit; Q6_K: (d · sub-scale) · q.

        Errors: ShapeError for a wrong size; of a ternary layout FormatError as ``check``.
        """
        if self.is_ternary:
            trits, scales = self.trits(data, shape, where=where, offset=offset)
            values = trits.astype(np.float32).reshape(scales.size, -1)
            values *= scales.reshape(-1, 1)
            return values.reshape(shape)
        blocks = self._blocks(data, shape)
        out = np.empty((len(blocks), self.block), np.float32)
        for part in _chunks(len(blocks), max(1, _CHUNK_WEIGHTS // self.block)):
            out[part] = self.decode(blocks[part])
        return out.reshape(shape)

    def pack(self, values: Floats) -> Bytes:
        """Encode float32: values (…shape) f32 → (nbytes,) u8. Ternary: round(w / max|w|), a maximum a scale.

        Errors: ShapeError; NumericsError for NaN, Inf or a value (or block scale) beyond float16.
        """
        values = np.ascontiguousarray(values, dtype=np.float32)
        if not np.isfinite(values).all():
            raise NumericsError("cannot pack a tensor that holds NaN or Inf")
        self.nbytes(values.shape)
        if self.is_ternary:
            grouped = values.reshape(-1, self.group or values.size)
            scales = np.abs(grouped).max(axis=1)
            trits = _round_half_away(grouped * _inverse(scales)[:, None]).astype(np.int8).reshape(values.shape)
            return self.pack_trits(trits, scales)
        blocks = values.reshape(-1, self.block)
        out = np.empty((len(blocks), self.block_bytes), np.uint8)
        for part in _chunks(len(blocks), max(1, _CHUNK_WEIGHTS // self.block)):
            out[part] = self.encode(blocks[part])
        return out.reshape(-1)

    def trits(
        self, data: Bytes, shape: tuple[int, ...], *, where: str = "data", offset: int = 0
    ) -> tuple[Trits, Floats]:
        """Decode a ternary tensor: data (nbytes,) u8 → trits (…shape) i8 in {−1, 0, 1}, scales f32.

        Scales: (1,) for a scale a tensor, (…, in_features / group) for a scale a group.
        Errors: ShapeError for a wrong size or a float layout; FormatError as ``check``.
        """
        if not self.is_ternary:
            raise ShapeError("trits of a layout that is not ternary", got=self.name)
        self.check(data, shape, where=where, offset=offset)
        blocks = self._blocks(data, shape)
        code_bytes = self.block_bytes - (2 if self.group else 0)
        out = np.empty((len(blocks), self.block), np.int8)
        for part in _chunks(len(blocks), max(1, _CHUNK_WEIGHTS // self.block)):
            np.subtract(self.decode(blocks[part, :code_bytes]).view(np.int8), 1, out=out[part])
        if self.interleaved_rows > 1:
            rows, columns = shape
            grouped = out.reshape(rows // self.interleaved_rows, columns, self.interleaved_rows)
            out = np.ascontiguousarray(grouped.transpose(0, 2, 1))
        return out.reshape(shape), self.scales(data, shape)

    def pack_trits(self, trits: Trits, scales: Floats) -> Bytes:
        """Encode trits (…shape) i8 with scales f32, (1,) or one a group in row-major order, to (nbytes,) u8.

        Errors: ShapeError for a value that is not a trit, a wrong number of scales or one that is not finite;
        NumericsError for a scale beyond float16 where the layout stores that.
        """
        if not self.is_ternary:
            raise ShapeError("trits for a layout that is not ternary", got=self.name)
        size = self.nbytes(trits.shape)
        if trits.dtype != np.int8 or int(trits.min()) < -1 or int(trits.max()) > 1:
            raise ShapeError("values to pack", expected="int8 in {−1, 0, 1}", got=f"{trits.dtype} up to {trits.max()}")
        scales = np.ascontiguousarray(scales, dtype="<f4").reshape(-1)
        n_scales = trits.size // self.group if self.group else 1
        if scales.size != n_scales or not np.isfinite(scales).all():
            raise ShapeError(f"scales of a {self.name} tensor", expected=f"{n_scales} finite", got=f"{scales.size}")
        if self.interleaved_rows > 1:
            trits = trits.reshape(-1, self.interleaved_rows, trits.shape[-1]).transpose(0, 2, 1)
        blocks = np.ascontiguousarray(trits).reshape(-1, self.block)
        out = np.zeros(size, np.uint8)
        code_bytes = self.block_bytes - (2 if self.group else 0)
        packed = out[: size - self.tail_bytes].reshape(-1, self.block_bytes)
        for part in _chunks(len(blocks), max(1, _CHUNK_WEIGHTS // self.block)):
            packed[part, :code_bytes] = self.encode((blocks[part] + np.int8(1)).view(np.uint8))
        if self.group:
            packed[:, code_bytes:] = _f16(scales[:, None])
        else:
            out[size - self.tail_bytes : size - self.tail_bytes + 4] = scales.view(np.uint8)
        return out

    def scales(self, data: Bytes, shape: tuple[int, ...]) -> Floats:
        """The stored scales as f32: of a ternary layout as ``trits`` returns them, else one a block."""
        if self.tail_bytes:
            start = len(data) - self.tail_bytes
            return data[start : start + 4].copy().view("<f4").astype(np.float32)
        blocks = self._blocks(data, shape)
        scales = blocks[:, self.scale_at : self.scale_at + 2].copy().view("<f2").astype(np.float32)
        return scales.reshape(*shape[:-1], -1)

    def scale(self, data: Bytes, shape: tuple[int, ...], *, where: str = "data", offset: int = 0) -> np.float32 | None:
        """The scale that all weights of a ternary tensor share, or None where its groups have different ones.

        A group of zeros whose scale is 0 has any scale: quantizers that take a group's maximum leave it so. f32 ().
        Errors: ShapeError for a wrong size or a float layout; FormatError for a scale that is not finite, as ``check``.
        """
        if not self.is_ternary:
            raise ShapeError("the scale of a layout that is not ternary", got=self.name)
        self._check_scales(data, shape, where, offset)
        scales = self.scales(data, shape).reshape(-1)
        if (scales == scales[0]).all():
            return np.float32(scales[0])
        counts = scales != 0
        scale = scales[counts.argmax()]
        if (scales[counts] != scale).any():
            return None
        codes = self._blocks(data, shape)[~counts, : self.block_bytes - 2]
        is_zero = all(
            (self.decode(codes[part]) == 1).all() for part in _chunks(len(codes), _CHUNK_WEIGHTS // self.block)
        )
        return np.float32(scale) if is_zero else None

    def check(self, data: Bytes, shape: tuple[int, ...], *, where: str = "data", offset: int = 0) -> None:
        """Refuse what cannot be a weight: code 3, NaN or Inf as value or scale. Scales ≤ 0 are exact: accepted.

        Errors: ShapeError for a wrong size; FormatError naming ``where`` and the byte, counted from ``offset``.
        """
        blocks = self._blocks(data, shape)
        if self.block == 1:
            self._check_values(blocks, where, offset)
            return
        if self.is_ternary and self.bits >= 2:
            position = _first_code_3(blocks[:, : self.block_bytes - (2 if self.group else 0)])
            if position is not None:
                block, byte = position
                at = offset + block * self.block_bytes + byte
                raise FormatError("invalid ternary code", where=f"{where}, byte {at}", expected="0, 1 or 2", got=3)
        self._check_scales(data, shape, where, offset)

    def _check_scales(self, data: Bytes, shape: tuple[int, ...], where: str, offset: int) -> None:
        bad = np.flatnonzero(~np.isfinite(self.scales(data, shape).reshape(-1)))
        if bad.size:
            start = len(data) - self.tail_bytes if self.tail_bytes else int(bad[0]) * self.block_bytes
            at = offset + start + self.scale_at
            raise FormatError("scale is not finite", where=f"{where}, byte {at}")

    def _check_values(self, blocks: Bytes, where: str, offset: int) -> None:
        word, exponent = {"f32": ("<u4", 0x7F800000), "f16": ("<u2", 0x7C00), "bf16": ("<u2", 0x7F80)}[self.name]
        words = blocks.reshape(-1).view(word)
        for part in _chunks(len(words), _CHUNK_WEIGHTS // 4):
            bad = (words[part] & words.dtype.type(exponent)) == exponent
            if bad.any():
                at = offset + (part.start + int(bad.argmax())) * self.block_bytes
                raise FormatError("value is not finite", where=f"{where}, byte {at}")


def _first_code_3(codes: Bytes) -> tuple[int, int] | None:
    """(block, byte) of the first byte of codes (blocks, bytes) u8 that holds a bit pair 11, or None."""
    width = codes.shape[1]
    for part in _chunks(len(codes), max(8, _CHUNK_WEIGHTS // (4 * width) // 8 * 8)):
        chunk = np.ascontiguousarray(codes[part]).reshape(-1)
        whole = len(chunk) // 8 * 8
        words = chunk[:whole].view("<u8")
        found = (words & (words >> np.uint64(1)) & np.uint64(0x5555555555555555)).any()
        rest = chunk[whole:]
        if found or (rest & (rest >> 1) & 0x55).any():
            block, byte = divmod(int(((chunk & (chunk >> 1) & 0x55) != 0).argmax()), width)
            return part.start + block, byte
    return None


def _i2_s(name: str, block: int, block_bytes: int, source: str, interleaved_rows: int = 1) -> Layout:
    decode, encode = _pairs((6, 4, 2, 0), block_bytes)
    source = f"BitNet I2_S, {source}"
    return Layout(name, block, block_bytes, 36, 40, source, decode, encode, 0, 32, 0, True, interleaved_rows)


_GGML = "ggml block formats"

LAYOUTS: dict[str, Layout] = {
    row.name: row
    for row in (
        Layout("f32", 1, 4, 0, 0, "IEEE 754 binary32", _unpack_f32, _pack_f32),
        Layout("f16", 1, 2, 1, 1, "IEEE 754 binary16", _unpack_f16, _f16),
        Layout("bf16", 1, 2, 30, 32, "upper half of binary32", _unpack_bf16, _pack_bf16),
        Layout("q8_0", 32, 34, 8, 7, _GGML, _unpack_q8_0, _pack_q8_0, scale_at=0),
        Layout("q6_k", 256, 210, 14, 18, _GGML, _unpack_q6_k, _pack_q6_k, scale_at=208),
        _i2_s("i2_s", 128, 32, "x86 blocks, as published"),
        _i2_s("i2_s_64", 64, 16, "Arm blocks"),
        _i2_s("i2_s_4row", 4, 1, "four rows a byte", interleaved_rows=4),
        Layout("tq1_0", 256, 54, 34, 36, _GGML, _unpack_tq1_0, _pack_tq1_0, group=256, scale_at=52),
        Layout("tq2_0", 256, 66, 35, 37, _GGML, *_pairs((0, 2, 4, 6), 32), group=256, scale_at=64),
    )
}

# The same type id stands for all three orders and nothing in a file tells them apart: the caller chooses.
I2S_LAYOUTS: dict[str, str] = {"128": "i2_s", "64": "i2_s_64", "4row": "i2_s_4row"}


def head_plane_bytes(rows: int, cols: int) -> tuple[int, int]:
    """Bytes of the two halves of a plane44 resident, without the 64 between them: what is read of all rows, and of few."""
    panels = -(-rows // 16)
    return panels * (64 * -(-cols // 8) + 192), panels * 16 * (64 * -(-cols // 128) + 16)
