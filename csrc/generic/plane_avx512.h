// Integer products of a head plane with 512-bit VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "generic/dot_avx512.h"

namespace tritium {
namespace {

constexpr int kHalvesTogether = 16;  // sums, for which the codes are taken apart once

// Σ c·a over the codes c of 4 bits of a panel's sixteen rows, for N rows of activations `stride` apart. Writes sums[N][16];
// |Σ| ≤ 15·128·k < 2³¹ for k ≤ 2¹⁶, and every partial sum with it.
template <int N>
void panel_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32_t* sums) {
  const __m512i nibble = _mm512_set1_epi8(15);
  // Where few sums follow each other too closely, those of either half of a byte are apart.
  constexpr bool kApart = N <= 8;
  Rows16<N> s, t;
  clear(s);
  if constexpr (kApart) clear(t);
  // Few sums wait for memory; sixteen take so long that it keeps up. Between them neither holds, and the next panel is asked for in time.
  constexpr bool kNext = N == 4 || N == 8;
  const int64_t ahead = kNext ? 64 * n_blocks + 12 * 16 : 4096;
  const uint8_t* stop = panel + 64 * n_blocks;
  do {
    _mm_prefetch(reinterpret_cast<const char*>(panel + ahead), kNext ? _MM_HINT_T1 : _MM_HINT_T0);
    const __m512i both = _mm512_loadu_si512(panel);
    add_dots(s, _mm512_and_si512(both, nibble), a, stride);
    add_dots(kApart ? t : s, _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble), a + 4, stride);
    settle(s);
    if constexpr (kApart) settle(t);
    panel += 64;
    a += 8;
  } while (panel < stop);
  if constexpr (kApart) add_shifted(s, t, 0);
  __m512i out[N];
  store(s, out);
  for (int i = 0; i < N; ++i) _mm512_storeu_si512(sums + 16 * i, out[i]);
}

// Σ c·high and Σ c·low over the codes of one row of low halves, with the same bound.
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
