// Integer products of a head plane in 256-bit registers, from the sums of a unit's dot_*.h, which is included before.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "generic/bytes_avx2.h"

namespace tritium {
namespace {

[[gnu::always_inline]] inline int32_t across(__m256i sum) {
  const __m128i a = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  const __m128i b = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xB1)));
}

constexpr int kHalvesTogether = 4;  // eight sums beside the four parts of a block leave no register for more

// A block of a panel taken apart: the low and the high bits of its first and of its last eight rows.
struct Codes {
  __m256i first_low, first_high, last_low, last_high;
};

// Sums of T rows of activations × 16 rows of weights, as a chain of members: gcc keeps arrays of vectors in memory.
template <int T>
struct CodeSums {
  __m256i first, last;
  CodeSums<T - 1> rest;
};
template <>
struct CodeSums<0> {};

template <int T>
[[gnu::always_inline]] inline void clear(CodeSums<T>& s) {
  s.first = s.last = _mm256_setzero_si256();
  if constexpr (T > 1) clear(s.rest);
}
template <int T>
[[gnu::always_inline]] inline void add_block(CodeSums<T>& s, const Codes& c, const int8_t* a, int64_t stride) {
  const __m256i x = four(a), y = four(a + 4);
  s.first = add_codes(s.first, c.first_low, c.first_high, x, y);
  s.last = add_codes(s.last, c.last_low, c.last_high, x, y);
  if constexpr (T > 1) add_block(s.rest, c, a + stride, stride);
}
template <int T>
[[gnu::always_inline]] inline void flush(const CodeSums<T>& s, __m256i* totals) {
  totals[0] = flush(totals[0], s.first);
  totals[1] = flush(totals[1], s.last);
  if constexpr (T > 1) flush(s.rest, totals + 2);
}

// Σ c·a over the codes c of 4 bits of a panel's sixteen rows, for N rows of activations `stride` apart. Writes sums[N][16];
// |Σ| ≤ 15·128·k < 2³¹ for k ≤ 2¹⁶.
template <int N>
inline void panel_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32_t* sums) {
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i totals[2 * N];
  for (__m256i& total : totals) total = _mm256_setzero_si256();
  for (int64_t j = 0; j < n_blocks;) {
    const int64_t stop = n_blocks - j < kCodeFlush / 2 ? n_blocks : j + kCodeFlush / 2;
    CodeSums<N> s;
    clear(s);
    for (; j < stop; ++j) {
      _mm_prefetch(reinterpret_cast<const char*>(panel + 64 * j + 4096), _MM_HINT_T0);
      const __m256i first = load_256(panel + 64 * j), last = load_256(panel + 64 * j + 32);
      const Codes c = {_mm256_and_si256(first, nibble), _mm256_and_si256(_mm256_srli_epi16(first, 4), nibble),
                       _mm256_and_si256(last, nibble), _mm256_and_si256(_mm256_srli_epi16(last, 4), nibble)};
      add_block(s, c, a + 8 * j, stride);
    }
    flush(s, totals);
  }
  for (int i = 0; i < 2 * N; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + 8 * i), totals[i]);
}

// Σ c·high and Σ c·low over the codes of one row of low halves, with the same bound.
inline void row_sums(const uint8_t* row, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t* sum_high,
                     int32_t* sum_low) {
  const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  __m256i h = zero, l = zero;
  for (int64_t j = 0; j < n_blocks; ++j) {
    __m256i a = zero, b = zero;
    for (int64_t half = 0; half < 64; half += 32) {
      const __m256i both = load_256(row + 64 * j + half);
      const __m256i c = _mm256_and_si256(both, nibble), d = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
      const int64_t at = 128 * j + half;
      a = add_codes(a, c, d, load_256(high + at), load_256(high + at + 64));
      b = add_codes(b, c, d, load_256(low + at), load_256(low + at + 64));
    }
    h = flush(h, a);
    l = flush(l, b);
  }
  *sum_high = across(h);
  *sum_low = across(l);
}

}  // namespace
}  // namespace tritium
