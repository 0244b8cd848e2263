// Sums of products of codes and int8 with 256-bit vpdpbusd: four products to a lane of 32 bits, which nothing overflows.
#pragma once

#include "generic/bytes_avx2.h"

namespace tritium {
namespace {

// |Σ code·a| ≤ 2·128·k < 2³¹ for k < 2²³: a lane of any product of a panel. So many blocks, unpacked, leave room in the first-level cache.
constexpr int64_t kFlushBlocks = 16;
// |Σ| ≤ 15·128·k < 2³¹ for codes of 4 bits and k ≤ 2¹⁶.
constexpr int64_t kCodeFlush = int64_t{1} << 16;
// A sum is there for the next product after several cycles: few sums need company, or products wait.
constexpr bool kSlowSums = true;

[[gnu::always_inline]] inline __m256i dot(__m256i sum, __m256i codes, __m256i a) { return _mm256_dpbusd_avx_epi32(sum, codes, a); }
[[gnu::always_inline]] inline __m256i flush(__m256i total, __m256i sums) { return _mm256_add_epi32(total, sums); }

// Four activations of a token times the codes of sixteen rows. In assembly, as in dot_avx2.h.
[[gnu::always_inline]] inline void add_products(__m256i& sum_lo, __m256i& sum_hi, __m256i lo, __m256i hi, const int8_t* a) {
  __m256i x;
  asm volatile(
      "vpbroadcastd %5, %2\n\t"
      "%{vex%} vpdpbusd %2, %3, %0\n\t"
      "%{vex%} vpdpbusd %2, %4, %1"
      : "+x"(sum_lo), "+x"(sum_hi), "=&x"(x)
      : "x"(lo), "x"(hi), "m"(*reinterpret_cast<const int8_t(*)[4]>(a)));
}

// Adds the products of 32 bytes of codes of 4 bits with x, and of as many with y.
[[gnu::always_inline]] inline __m256i add_codes(__m256i sum, __m256i low_codes, __m256i high_codes, __m256i x, __m256i y) {
  return _mm256_add_epi32(sum, dot(dot(_mm256_setzero_si256(), low_codes, x), high_codes, y));
}

// Sums of the four bit pairs of 32 bytes, multiplied where they stand, as code·4^j, and shifted back at the end:
// |sum| ≤ 4·(k/16)·128·128 < 2³¹ for k < 2¹⁹, and exact, each a multiple of 4^j.
struct PairSums {
  __m256i s0, s1, s2, s3;
};
[[gnu::always_inline]] inline void clear(PairSums& s) { s.s0 = s.s1 = s.s2 = s.s3 = _mm256_setzero_si256(); }
[[gnu::always_inline]] inline void add_code(__m256i& sum, __m256i packed, int mask, __m256i a) {
  sum = dot(sum, _mm256_and_si256(packed, _mm256_set1_epi8(static_cast<char>(mask))), a);
  asm("" : "+x"(sum));
}
// Bit pair j of every byte times the bytes of x_j.
[[gnu::always_inline]] inline void add_pairs(PairSums& s, __m256i packed, __m256i x0, __m256i x1, __m256i x2, __m256i x3) {
  add_code(s.s0, packed, 3, x0);
  add_code(s.s1, packed, 12, x1);
  add_code(s.s2, packed, 48, x2);
  add_code(s.s3, packed, 192, x3);
}
inline void flush(PairSums&) {}
[[gnu::always_inline]] inline __m256i sum_of(const PairSums& s) {
  const __m256i low = _mm256_add_epi32(s.s0, _mm256_srai_epi32(s.s1, 2));
  return _mm256_add_epi32(low, _mm256_add_epi32(_mm256_srai_epi32(s.s2, 4), _mm256_srai_epi32(s.s3, 6)));
}

}  // namespace
}  // namespace tritium
