"""The numeric profile: bounds of its functions, and properties that every back end relies on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tritium import numerics
from tritium.errors import NumericsError, ShapeError


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32))))


def test_exp_is_within_two_ulp_on_a_dense_grid() -> None:
    x = np.linspace(-87, 88, 1_000_001).astype(np.float32)
    assert ulps(numerics.exp(x), np.exp(x.astype(np.float64))) <= 2.0


def test_exp_at_its_ends() -> None:
    x = np.array([0.0, -0.0, -87.0, np.nextafter(np.float32(-87), np.float32(-88)), -1e30, 88.0, 1e30], np.float32)
    y = numerics.exp(x)
    assert y[0] == y[1] == 1.0
    assert y[2] > np.finfo(np.float32).tiny
    assert y[3] == y[4] == 0.0
    assert y[5] == y[6] < np.inf


def test_sincos_are_within_one_ulp() -> None:
    angle = np.random.default_rng(0).uniform(-(2.0**20), 2.0**20, 100_000)
    sin, cos = numerics.sincos(angle)
    assert ulps(sin, np.sin(angle)) <= 1.0
    assert ulps(cos, np.cos(angle)) <= 1.0


def test_rope_tables_follow_their_formula() -> None:
    cos, sin = numerics.rope_tables(2048, 128, 500_000.0)
    angle = np.arange(2048)[:, None] * 500_000.0 ** (-2 * np.arange(64) / 128)
    assert np.max(np.abs(cos - np.cos(angle))) < 1e-7
    assert np.max(np.abs(sin - np.sin(angle))) < 1e-7
    halved, _ = numerics.rope_tables(64, 128, 500_000.0, (2.0,) * 64)
    assert np.array_equal(halved[::2], cos[:32])


def test_lane_sum_adds_in_the_written_order() -> None:
    x = np.random.default_rng(1).standard_normal(37).astype(np.float32)
    lanes = [np.float32(0)] * 16
    for i, value in enumerate(x):
        lanes[i % 16] = lanes[i % 16] + value
    for half in (8, 4, 2, 1):
        lanes = [lanes[i] + lanes[i + half] for i in range(half)]
    assert numerics.lane_sum(x).tobytes() == lanes[0].tobytes()


def test_quantize_rounds_half_to_even_and_uses_the_reciprocal_scale() -> None:
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -127.0]], np.float32)
    q, scale = numerics.quantize_activations(x)
    assert q.tolist() == [[127, 0, 2, 2, 0, -127]]
    assert scale[0] == np.float32(1.0)


def test_quantize_of_zeros_has_the_floor_for_a_scale() -> None:
    q, scale = numerics.quantize_activations(np.zeros((2, 5), np.float32))
    assert not q.any()
    assert (scale == np.float32(1e-5) / np.float32(127)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_refuses_what_is_not_finite(bad: float) -> None:
    x = np.ones((3, 4), np.float32)
    x[1, 2] = bad
    with pytest.raises(NumericsError, match="token 1"):
        numerics.quantize_activations(x)
    with pytest.raises(ShapeError):
        numerics.quantize_activations(x[0])


def test_ternary_linear_is_exact_at_the_largest_sums() -> None:
    k = 6912
    q = np.full((1, k), -128, np.int8)
    trits = np.array([[1] * k, [-1] * k], np.int8)
    one = np.ones(1, np.float32)
    y = numerics.ternary_linear(q, one, trits, np.float32(1.0))
    assert y.tolist() == [[-884736.0, 884736.0]]


def test_grouped_scales_add_in_order() -> None:
    rng = np.random.default_rng(2)
    q = rng.integers(-128, 128, (2, 256)).astype(np.int8)
    trits = rng.integers(-1, 2, (3, 256)).astype(np.int8)
    scales = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
    scale_x = np.array([0.5, 0.25], np.float32)
    y = numerics.ternary_linear(q, scale_x, trits, scales, group=64)
    for t in range(2):
        for n in range(3):
            total = np.float32(0)
            for g in range(4):
                part = int(np.dot(q[t, 64 * g : 64 * g + 64].astype(int), trits[n, 64 * g : 64 * g + 64].astype(int)))
                total = total + np.float32(part) * (scale_x[t] * scales[n, g])
            assert y[t, n] == total


def test_sixteen_bit_activations_keep_more() -> None:
    x = np.random.default_rng(3).standard_normal((1, 64)).astype(np.float32)
    q8, s8 = numerics.quantize_activations(x, 8)
    q16, s16 = numerics.quantize_activations(x, 16)
    error8, error16 = np.abs(q8 * s8 - x).max(), np.abs(q16 * s16 - x).max()
    assert error16 < error8 / 100


def test_attention_is_softmax_within_rounding() -> None:
    rng = np.random.default_rng(4)
    for length in (1, 255, 256, 257, 700):
        q = rng.standard_normal((3, 20)).astype(np.float32)
        keys, values = (rng.standard_normal((length, 20)).astype(np.float16) for _ in range(2))
        scores = q.astype(float) @ keys.astype(float).T / math.sqrt(20)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = p / p.sum(axis=1, keepdims=True) @ values.astype(float)
        assert np.abs(numerics.attend(q, keys, values) - expected).max() < 1e-5


def test_rope_styles_pair_different_features() -> None:
    x = np.array([[[1.0, 0.0, 0.0, 0.0]]], np.float32)
    cos, sin = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    assert numerics.apply_rope(x, cos, sin, "half").tolist() == [[[0.0, 0.0, 1.0, 0.0]]]
    assert numerics.apply_rope(x, cos, sin, "interleaved").tolist() == [[[0.0, 1.0, 0.0, 0.0]]]


def test_float16_overflow_is_an_error() -> None:
    assert numerics.to_f16(np.array([65504.0], np.float32))[0] == np.float16(65504)
    with pytest.raises(NumericsError, match="float16"):
        numerics.to_f16(np.array([65520.0], np.float32))


def test_top_k_ties_go_to_the_lowest_id() -> None:
    ids, values = numerics.top_k(np.array([[1.0, 3.0, -0.0, 3.0, 0.0]], np.float32), 4)
    assert ids.tolist() == [[1, 3, 0, 2]]
    assert values.tolist() == [[3.0, 3.0, 1.0, -0.0]]


def test_philox_known_answers() -> None:
    # The Random123 library's known-answer vectors for philox4x32-10.
    ones = 0xFFFFFFFFFFFFFFFF
    assert numerics.philox(0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert numerics.philox(ones, ones, ones) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    draws = [numerics.uniform(7, 0, i) for i in range(20_000)]
    assert min(draws) >= 0
    assert max(draws) < 1
    assert abs(np.mean(draws) - 0.5) < 0.01
