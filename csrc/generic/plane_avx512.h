// Integer products of a head plane with 512-bit VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

// Σ c·high and Σ c·low over the codes c of 4 bits of a panel's sixteen rows: |Σ| ≤ 15·128·k < 2³¹ for k ≤ 2¹⁶, and every partial sum
// with it.
inline void panel_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t* sums_high,
                       int32_t* sums_low) {
  const auto four = [](const int8_t* p) __attribute__((always_inline)) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
  };
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i h0 = _mm512_setzero_si512(), h1 = h0, l0 = h0, l1 = h0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    _mm_prefetch(reinterpret_cast<const char*>(panel + 64 * j + 4096), _MM_HINT_T0);
    const __m512i both = _mm512_loadu_si512(panel + 64 * j);
    const __m512i a = _mm512_and_si512(both, nibble), b = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
    h0 = _mm512_dpbusd_epi32(h0, a, four(high + 8 * j));
    l0 = _mm512_dpbusd_epi32(l0, a, four(low + 8 * j));
    h1 = _mm512_dpbusd_epi32(h1, b, four(high + 8 * j + 4));
    l1 = _mm512_dpbusd_epi32(l1, b, four(low + 8 * j + 4));
  }
  _mm512_storeu_si512(sums_high, _mm512_add_epi32(h0, h1));
  _mm512_storeu_si512(sums_low, _mm512_add_epi32(l0, l1));
}

// The same over one row of low halves, with the same bound.
inline void row_sums(const uint8_t* row, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t* sum_high,
                     int32_t* sum_low) {
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i h0 = _mm512_setzero_si512(), h1 = h0, l0 = h0, l1 = h0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    const __m512i both = _mm512_loadu_si512(row + 64 * j);
    const __m512i a = _mm512_and_si512(both, nibble), b = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
    h0 = _mm512_dpbusd_epi32(h0, a, _mm512_loadu_si512(high + 128 * j));
    l0 = _mm512_dpbusd_epi32(l0, a, _mm512_loadu_si512(low + 128 * j));
    h1 = _mm512_dpbusd_epi32(h1, b, _mm512_loadu_si512(high + 128 * j + 64));
    l1 = _mm512_dpbusd_epi32(l1, b, _mm512_loadu_si512(low + 128 * j + 64));
  }
  *sum_high = _mm512_reduce_add_epi32(_mm512_add_epi32(h0, h1));
  *sum_low = _mm512_reduce_add_epi32(_mm512_add_epi32(l0, l1));
}

}  // namespace
}  // namespace tritium
