// Integer products of a panel of a head plane with NEON: sdot where the unit is compiled with it, widening multiplies elsewhere.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace tritium {
namespace {

// Four rows of four codes each, times the same four integers: a pair of products is at most 2·128·127, which int16 holds.
[[gnu::always_inline]] inline int32x4_t add_products(int32x4_t sum, int8x16_t q, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, q, x);
#else
  const int16x8_t first = vmull_s8(vget_low_s8(q), vget_low_s8(x)), second = vmull_high_s8(q, x);
  return vpadalq_s16(sum, vpaddq_s16(first, second));
#endif
}

// Σ q·high and Σ q·low for the sixteen rows of a panel: |Σ| ≤ 128·127·k < 2³¹ for k ≤ 2¹⁶.
inline void plane_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t, int32_t,
                       int32_t* sums_high, int32_t* sums_low) {
  const uint8x16_t bias = vdupq_n_u8(128);
  const auto four = [](const int8_t* p) __attribute__((always_inline)) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
  };
  int32x4_t h0 = vdupq_n_s32(0), h1 = h0, h2 = h0, h3 = h0, l0 = h0, l1 = h0, l2 = h0, l3 = h0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    const int8x16_t x = four(high + 4 * j), y = four(low + 4 * j);
    const int8x16_t a = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(panel + 64 * j), bias));
    const int8x16_t b = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(panel + 64 * j + 16), bias));
    const int8x16_t c = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(panel + 64 * j + 32), bias));
    const int8x16_t d = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(panel + 64 * j + 48), bias));
    h0 = add_products(h0, a, x);
    h1 = add_products(h1, b, x);
    h2 = add_products(h2, c, x);
    h3 = add_products(h3, d, x);
    l0 = add_products(l0, a, y);
    l1 = add_products(l1, b, y);
    l2 = add_products(l2, c, y);
    l3 = add_products(l3, d, y);
  }
  vst1q_s32(sums_high, h0);
  vst1q_s32(sums_high + 4, h1);
  vst1q_s32(sums_high + 8, h2);
  vst1q_s32(sums_high + 12, h3);
  vst1q_s32(sums_low, l0);
  vst1q_s32(sums_low + 4, l1);
  vst1q_s32(sums_low + 8, l2);
  vst1q_s32(sums_low + 12, l3);
}

}  // namespace
}  // namespace tritium
