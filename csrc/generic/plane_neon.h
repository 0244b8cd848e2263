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

constexpr int kHalvesTogether = 2;  // eight sums beside the sixteen parts of a block and four of the activations

// Sums of one row of activations with a panel's sixteen rows.
struct CodeSums {
  int32x4_t a, b, c, d;
};
[[gnu::always_inline]] inline void add_block(CodeSums& s, const uint8_t* codes, const int8_t* activations) {
  const auto four = [](const int8_t* p) __attribute__((always_inline)) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
  };
  const int8x16_t x = four(activations), y = four(activations + 4);
  s.a = add_both(s.a, vld1q_u8(codes), x, y);
  s.b = add_both(s.b, vld1q_u8(codes + 16), x, y);
  s.c = add_both(s.c, vld1q_u8(codes + 32), x, y);
  s.d = add_both(s.d, vld1q_u8(codes + 48), x, y);
}
[[gnu::always_inline]] inline void store(const CodeSums& s, int32_t* sums) {
  vst1q_s32(sums, s.a);
  vst1q_s32(sums + 4, s.b);
  vst1q_s32(sums + 8, s.c);
  vst1q_s32(sums + 12, s.d);
}

// Σ c·a over the codes c of 4 bits of a panel's sixteen rows, for N rows of activations `stride` apart. Writes sums[N][16];
// |Σ| ≤ 15·128·k < 2³¹ for k ≤ 2¹⁶.
template <int N>
inline void panel_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32_t* sums) {
  static_assert(N == 1 || N == 2);
  const int32x4_t zero = vdupq_n_s32(0);
  CodeSums first = {zero, zero, zero, zero}, second = first;
  for (int64_t j = 0; j < n_blocks; ++j) {
    add_block(first, panel + 64 * j, a + 8 * j);
    if constexpr (N == 2) add_block(second, panel + 64 * j, a + stride + 8 * j);
  }
  store(first, sums);
  if constexpr (N == 2) store(second, sums + 16);
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
