// Integer products of a panel of a head plane with 512-bit VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

// Σ q·high and Σ q·low for the sixteen rows of a panel. Bytes are q + 128, so 128·Σ is taken off: |Σ (q + 128)·high| ≤ 255·127·k < 2³¹
// for k ≤ 2¹⁶, and every partial sum with it.
inline void plane_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t total_high,
                       int32_t total_low, int32_t* sums_high, int32_t* sums_low) {
  const auto four = [](const int8_t* p) __attribute__((always_inline)) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
  };
  __m512i h0 = _mm512_setzero_si512(), h1 = h0, l0 = h0, l1 = h0;
  int64_t j = 0;
  for (; j + 2 <= n_blocks; j += 2) {
    _mm_prefetch(reinterpret_cast<const char*>(panel + 64 * j + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(panel + 64 * j + 4160), _MM_HINT_T0);
    const __m512i a = _mm512_loadu_si512(panel + 64 * j), b = _mm512_loadu_si512(panel + 64 * j + 64);
    h0 = _mm512_dpbusd_epi32(h0, a, four(high + 4 * j));
    l0 = _mm512_dpbusd_epi32(l0, a, four(low + 4 * j));
    h1 = _mm512_dpbusd_epi32(h1, b, four(high + 4 * j + 4));
    l1 = _mm512_dpbusd_epi32(l1, b, four(low + 4 * j + 4));
  }
  if (j < n_blocks) {
    const __m512i a = _mm512_loadu_si512(panel + 64 * j);
    h0 = _mm512_dpbusd_epi32(h0, a, four(high + 4 * j));
    l0 = _mm512_dpbusd_epi32(l0, a, four(low + 4 * j));
  }
  _mm512_storeu_si512(sums_high, _mm512_sub_epi32(_mm512_add_epi32(h0, h1), _mm512_set1_epi32(128 * total_high)));
  _mm512_storeu_si512(sums_low, _mm512_sub_epi32(_mm512_add_epi32(l0, l1), _mm512_set1_epi32(128 * total_low)));
}

}  // namespace
}  // namespace tritium
