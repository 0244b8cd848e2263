// Integer products of a head plane with NEON: sdot where the unit is compiled with it, widening multiplies elsewhere.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace tritium {
namespace {

// Codes of 4 bits times int8, four neighbours to a lane: a pair of products is at most 2·15·128, which int16 holds.
[[gnu::always_inline]] inline int32x4_t add_codes(int32x4_t sum, uint8x16_t codes, int8x16_t x) {
  const int8x16_t c = vreinterpretq_s8_u8(codes);
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, c, x);
#else
  const int16x8_t first = vmull_s8(vget_low_s8(c), vget_low_s8(x)), second = vmull_high_s8(c, x);
  return vpadalq_s16(sum, vpaddq_s16(first, second));
#endif
}
[[gnu::always_inline]] inline int32x4_t add_both(int32x4_t sum, uint8x16_t both, int8x16_t x, int8x16_t y) {
  return add_codes(add_codes(sum, vandq_u8(both, vdupq_n_u8(15)), x), vshrq_n_u8(both, 4), y);
}

constexpr int kProbesTogether = 1;  // eight sums beside the sixteen parts of a block and four of the probe

// Σ c·a over the codes c of 4 bits of a panel's sixteen rows, for two rows of activations `stride` apart: the high and the low halves
// of a probe. Writes sums[2][16]; |Σ| ≤ 15·128·k < 2³¹ for k ≤ 2¹⁶.
template <int N>
inline void panel_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* high, int64_t stride, int32_t* sums) {
  static_assert(N == 1);
  const int8_t* low = high + stride;
  const auto four = [](const int8_t* p) __attribute__((always_inline)) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
  };
  int32x4_t h0 = vdupq_n_s32(0), h1 = h0, h2 = h0, h3 = h0, l0 = h0, l1 = h0, l2 = h0, l3 = h0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    const int8x16_t x = four(high + 8 * j), y = four(high + 8 * j + 4), z = four(low + 8 * j), w = four(low + 8 * j + 4);
    const uint8x16_t a = vld1q_u8(panel + 64 * j), b = vld1q_u8(panel + 64 * j + 16);
    const uint8x16_t c = vld1q_u8(panel + 64 * j + 32), d = vld1q_u8(panel + 64 * j + 48);
    h0 = add_both(h0, a, x, y);
    h1 = add_both(h1, b, x, y);
    h2 = add_both(h2, c, x, y);
    h3 = add_both(h3, d, x, y);
    l0 = add_both(l0, a, z, w);
    l1 = add_both(l1, b, z, w);
    l2 = add_both(l2, c, z, w);
    l3 = add_both(l3, d, z, w);
  }
  vst1q_s32(sums, h0);
  vst1q_s32(sums + 4, h1);
  vst1q_s32(sums + 8, h2);
  vst1q_s32(sums + 12, h3);
  vst1q_s32(sums + 16, l0);
  vst1q_s32(sums + 20, l1);
  vst1q_s32(sums + 24, l2);
  vst1q_s32(sums + 28, l3);
}

// Σ c·high and Σ c·low over the codes of one row of low halves, with the same bound.
inline void row_sums(const uint8_t* row, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t* sum_high,
                     int32_t* sum_low) {
  int32x4_t h = vdupq_n_s32(0), l = h;
  for (int64_t j = 0; j < n_blocks; ++j) {
    for (int64_t quarter = 0; quarter < 64; quarter += 16) {
      const uint8x16_t both = vld1q_u8(row + 64 * j + quarter);
      const int64_t at = 128 * j + quarter;
      h = add_both(h, both, vld1q_s8(high + at), vld1q_s8(high + at + 64));
      l = add_both(l, both, vld1q_s8(low + at), vld1q_s8(low + at + 64));
    }
  }
  *sum_high = vaddvq_s32(h);
  *sum_low = vaddvq_s32(l);
}

}  // namespace
}  // namespace tritium
