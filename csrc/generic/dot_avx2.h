// Sums of products of codes and int8 with vpmaddubsw: two products to a lane of 16 bits, widened before a lane overflows.
#pragma once

#include "generic/bytes_avx2.h"

namespace tritium {
namespace {

// vpmaddubsw gives c0·a0 + c1·a1 with codes c in {0, 1, 2} and a in [−128, 127]: at least −512, at most 508. An int16 lane holds
// 64 of them, 64·−512 = −32768 exactly, and not 65. A block of a panel makes 4 additions a lane, so lanes are flushed every 16 blocks.
constexpr int64_t kFlushBlocks = 16;
// A product of codes of 4 bits and int8, two to a lane, is at most 2·15·128 = 3840 in magnitude: an int16 lane holds eight.
constexpr int64_t kCodeFlush = 8;
// A sum is there for the next product at once: sums need no company.
constexpr bool kSlowSums = false;

// Add the pairs of int16 in every lane of 32 bits.
[[gnu::always_inline]] inline __m256i flush(__m256i total, __m256i words) {
  return _mm256_add_epi32(total, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
}

// Four activations of a token times the codes of sixteen rows. In assembly: gcc renames sums until sixteen registers do not hold what
// it has begun, and stores sums on every pass; and both products before both sums ran 4 % faster than one after the other.
[[gnu::always_inline]] inline void add_products(__m256i& sum_lo, __m256i& sum_hi, __m256i lo, __m256i hi, const int8_t* a) {
  __m256i x, y;
  asm volatile(
      "vpbroadcastd %6, %2\n\t"
      "vpmaddubsw %2, %4, %3\n\t"
      "vpmaddubsw %2, %5, %2\n\t"
      "vpaddw %3, %0, %0\n\t"
      "vpaddw %2, %1, %1"
      : "+x"(sum_lo), "+x"(sum_hi), "=&x"(x), "=&x"(y)
      : "x"(lo), "x"(hi), "m"(*reinterpret_cast<const int8_t(*)[4]>(a)));
}

// Adds the products of 32 bytes of codes of 4 bits with x, and of as many with y: two of the eight.
[[gnu::always_inline]] inline __m256i add_codes(__m256i sum, __m256i low_codes, __m256i high_codes, __m256i x, __m256i y) {
  return _mm256_add_epi16(sum, _mm256_add_epi16(_mm256_maddubs_epi16(low_codes, x), _mm256_maddubs_epi16(high_codes, y)));
}

// Sums of the four bit pairs of 32 bytes. Half of the codes are multiplied where they stand, as 4·code, which saves shifts: of these an
// int16 lane holds 16 products, and two lanes take one each of every 32 bytes. The third takes two of the others.
struct PairSums {
  __m256i once, even, odd, total, total4;
};
[[gnu::always_inline]] inline void clear(PairSums& s) {
  s.once = s.even = s.odd = s.total = s.total4 = _mm256_setzero_si256();
}
[[gnu::always_inline]] inline void add_code(__m256i& sum, __m256i packed, int mask, __m256i a) {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_and_si256(packed, _mm256_set1_epi8(static_cast<char>(mask))), a));
  asm("" : "+x"(sum));
}
// Bit pair j of every byte times the bytes of x_j.
[[gnu::always_inline]] inline void add_pairs(PairSums& s, __m256i packed, __m256i x0, __m256i x1, __m256i x2, __m256i x3) {
  add_code(s.once, packed, 3, x0);
  add_code(s.even, packed, 12, x1);
  const __m256i high = _mm256_srli_epi32(packed, 4);
  add_code(s.once, high, 3, x2);
  add_code(s.odd, high, 12, x3);
}
// At the latest after kFlushBlocks times 32 bytes.
[[gnu::always_inline]] inline void flush(PairSums& s) {
  s.total = flush(s.total, s.once);
  s.total4 = flush(flush(s.total4, s.even), s.odd);
  s.once = s.even = s.odd = _mm256_setzero_si256();
}
[[gnu::always_inline]] inline __m256i sum_of(const PairSums& s) { return _mm256_add_epi32(s.total, _mm256_srai_epi32(s.total4, 2)); }

}  // namespace
}  // namespace tritium
