// Integer products of a panel of a head plane with 256-bit vpmaddubsw.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

// Σ q·x of four neighbours each, |q|·(±x): a pair of products is at most 2·128·127 in magnitude, which int16 holds without saturation.
[[gnu::always_inline]] inline __m256i add_products(__m256i sum, __m256i q, __m256i magnitude, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, q));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Σ q·high and Σ q·low for the sixteen rows of a panel: |Σ| ≤ 128·127·k < 2³¹ for k ≤ 2¹⁶.
inline void plane_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t, int32_t,
                       int32_t* sums_high, int32_t* sums_low) {
  const __m256i bias = _mm256_set1_epi8(static_cast<char>(128));
  __m256i h0 = _mm256_setzero_si256(), h1 = h0, l0 = h0, l1 = h0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    int32_t words[2];
    __builtin_memcpy(&words[0], high + 4 * j, 4);
    __builtin_memcpy(&words[1], low + 4 * j, 4);
    const __m256i x = _mm256_set1_epi32(words[0]), y = _mm256_set1_epi32(words[1]);
    _mm_prefetch(reinterpret_cast<const char*>(panel + 64 * j + 4096), _MM_HINT_T0);
    const __m256i a = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 64 * j)), bias);
    const __m256i b = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 64 * j + 32)), bias);
    const __m256i size_a = _mm256_abs_epi8(a), size_b = _mm256_abs_epi8(b);
    h0 = add_products(h0, a, size_a, x);
    h1 = add_products(h1, b, size_b, x);
    l0 = add_products(l0, a, size_a, y);
    l1 = add_products(l1, b, size_b, y);
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums_high), h0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums_high + 8), h1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums_low), l0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums_low + 8), l1);
}

}  // namespace
}  // namespace tritium
