// Integer products of a head plane with 256-bit vpmaddubsw.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

// A product of codes of 4 bits and int8, two to a lane, is at most 2·15·128 = 3840 in magnitude: an int16 lane holds eight.
constexpr int64_t kCodeFlush = 8;

[[gnu::always_inline]] inline __m256i load_codes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
[[gnu::always_inline]] inline __m256i broadcast_four(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
// int16 += the products of 32 bytes of two codes each with x (low bits) and y (high bits): two of the eight.
[[gnu::always_inline]] inline __m256i add_codes(__m256i sum, __m256i low_codes, __m256i high_codes, __m256i x, __m256i y) {
  return _mm256_add_epi16(sum, _mm256_add_epi16(_mm256_maddubs_epi16(low_codes, x), _mm256_maddubs_epi16(high_codes, y)));
}
[[gnu::always_inline]] inline __m256i widen_add(__m256i total, __m256i sum) {
  return _mm256_add_epi32(total, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
}
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

// int16 sums of T rows of activations × 16 rows of weights, as a chain of members: gcc keeps arrays of vectors in memory.
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
  const __m256i x = broadcast_four(a), y = broadcast_four(a + 4);
  s.first = add_codes(s.first, c.first_low, c.first_high, x, y);
  s.last = add_codes(s.last, c.last_low, c.last_high, x, y);
  if constexpr (T > 1) add_block(s.rest, c, a + stride, stride);
}
template <int T>
[[gnu::always_inline]] inline void flush(const CodeSums<T>& s, __m256i* totals) {
  totals[0] = widen_add(totals[0], s.first);
  totals[1] = widen_add(totals[1], s.last);
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
      const __m256i first = load_codes(panel + 64 * j), last = load_codes(panel + 64 * j + 32);
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
      const __m256i both = load_codes(row + 64 * j + half);
      const __m256i c = _mm256_and_si256(both, nibble), d = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
      const int64_t at = 128 * j + half;
      a = add_codes(a, c, d, load_codes(high + at), load_codes(high + at + 64));
      b = add_codes(b, c, d, load_codes(low + at), load_codes(low + at + 64));
    }
    h = widen_add(h, a);
    l = widen_add(l, b);
  }
  *sum_high = across(h);
  *sum_low = across(l);
}

}  // namespace
}  // namespace tritium
