// Sparse products with 512-bit VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "generic/ahead.h"
#include "kernel.h"

namespace tritium {
namespace {

// Bit pairs are multiplied where they stand, so a sum is 4^j times what it means.
constexpr bool kSumsShifted = true;

inline int64_t append(int32_t* list, int64_t n, __mmask16 chosen, int64_t first) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int32_t>(first)));
  _mm512_storeu_si512(list + n, _mm512_maskz_compress_epi32(chosen, index));
  return n + __builtin_popcount(chosen);
}

inline __mmask16 lanes_before(int64_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

// The indices in [first, last) of numbers above 0; a NaN is not. Sixteen places behind the last index are written too.
inline int64_t append_positive(const float* x, int64_t first, int64_t last, int32_t* list) {
  int64_t n = 0;
  for (int64_t i = first; i < last; i += 16) {
    const __mmask16 there = lanes_before(last - i);
    const __m512 a = _mm512_maskz_loadu_ps(there, x + i);
    n = append(list, n, _mm512_mask_cmp_ps_mask(there, a, _mm512_setzero_ps(), _CMP_GT_OQ), i);
  }
  return n;
}
inline int64_t append_nonzero(const int8_t* q, int64_t first, int64_t last, int32_t* list) {
  int64_t n = 0;
  for (int64_t i = first; i < last; i += 16) {
    const __m128i a = _mm_maskz_loadu_epi8(lanes_before(last - i), q + i);
    n = append(list, n, _mm_test_epi8_mask(a, a), i);
  }
  return n;
}

inline int32_t sum_of_codes(const int8_t* q, int64_t k) {
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < k; i += 64) {
    const __mmask64 there = k - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (k - i)) - 1;
    total = _mm512_dpbusd_epi32(total, _mm512_set1_epi8(1), _mm512_maskz_loadu_epi8(there, q + i));
  }
  return _mm512_reduce_add_epi32(total);
}

// Activations in the order in which 64 bytes of a row hold their codes; returns their sum.
inline int32_t arrange(const int8_t* q, int64_t k, int8_t* a) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < k; i += 256) {
    for (int64_t j = 0; j < 128; j += 32) {
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i + j));
      const __m256i high = k - i > 128 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i + 128 + j)) : _mm256_setzero_si256();
      const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
      _mm512_storeu_si512(a + i + 2 * j, both);
      total = _mm512_dpbusd_epi32(total, ones, both);
    }
  }
  return _mm512_reduce_add_epi32(total);
}

// Sums of one row's bit pairs where they stand: those of k, k + 32, k + 64, k + 96 times 64, 16, 4, 1.
struct RowSums {
  __m512i s0, s1, s2, s3;
};
// In registers, as settle in dot_avx512.h.
[[gnu::always_inline]] inline void add_pairs(RowSums& s, __m512i packed, __m512i a0, __m512i a1, __m512i a2, __m512i a3) {
  s.s0 = _mm512_dpbusd_epi32(s.s0, _mm512_and_si512(packed, _mm512_set1_epi8(static_cast<char>(192))), a0);
  s.s1 = _mm512_dpbusd_epi32(s.s1, _mm512_and_si512(packed, _mm512_set1_epi8(48)), a1);
  s.s2 = _mm512_dpbusd_epi32(s.s2, _mm512_and_si512(packed, _mm512_set1_epi8(12)), a2);
  s.s3 = _mm512_dpbusd_epi32(s.s3, _mm512_and_si512(packed, _mm512_set1_epi8(3)), a3);
  asm("" : "+v"(s.s0), "+v"(s.s1), "+v"(s.s2), "+v"(s.s3));
}
inline __m256i fold(const RowSums& s) {
  const __m512i high = _mm512_add_epi32(_mm512_srai_epi32(s.s0, 6), _mm512_srai_epi32(s.s1, 4));
  const __m512i all = _mm512_add_epi32(high, _mm512_add_epi32(_mm512_srai_epi32(s.s2, 2), s.s3));
  return _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
}

// Sixty-four bytes of each of four rows times the activations that they share.
struct FourSums {
  RowSums s0, s1, s2, s3;
};
template <class Load>
[[gnu::always_inline]] inline void add_block(FourSums& s, const int8_t* x, Load load) {
  __m512i a0 = _mm512_loadu_si512(x), a1 = _mm512_loadu_si512(x + 64), a2 = _mm512_loadu_si512(x + 128), a3 = _mm512_loadu_si512(x + 192);
  asm("" : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3));  // else gcc loads them again for every row
  add_pairs(s.s0, load(0), a0, a1, a2, a3);
  add_pairs(s.s1, load(1), a0, a1, a2, a3);
  add_pairs(s.s2, load(2), a0, a1, a2, a3);
  add_pairs(s.s3, load(3), a0, a1, a2, a3);
}

// Four rows share the activations; the last ones may be one row again and again, whose number stands behind the list then.
inline void multiply_rows(const uint8_t* w, int64_t row_bytes, int32_t* rows, int64_t n, const int8_t* a, int32_t total,
                          float scale, float* out) {
  for (int64_t i = n; i % 4 != 0; ++i) rows[i] = rows[n - 1];
  ask_first(w, row_bytes, rows, n < kFirstAsk ? n : kFirstAsk);
  for (int64_t i = 0; i < n; i += 4) {
    const uint8_t* row[4];
    for (int64_t j = 0; j < 4; ++j) row[j] = w + rows[i + j] * row_bytes;
    const Ahead<4> ahead(w, row_bytes, rows, i, n);
    const int8_t* x = a;
    const __m512i zero = _mm512_setzero_si512();
    const RowSums zeros{zero, zero, zero, zero};
    FourSums s{zeros, zeros, zeros, zeros};
    int64_t b = 0;
    for (; b + 64 <= row_bytes; b += 64, x += 256) {
      ahead.ask(b);
      add_block(s, x, [&](int64_t j) __attribute__((always_inline)) { return _mm512_loadu_si512(row[j] + b); });
    }
    if (b < row_bytes) {
      ahead.ask(b);
      add_block(s, x, [&](int64_t j) __attribute__((always_inline)) { return _mm512_maskz_loadu_epi8(0xffffffff, row[j] + b); });
    }
    const __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(fold(s.s0), fold(s.s1)), _mm256_hadd_epi32(fold(s.s2), fold(s.s3)));
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    float y[4];
    _mm_storeu_ps(y, _mm_mul_ps(_mm_cvtepi32_ps(_mm_sub_epi32(sums, _mm_set1_epi32(total))), _mm_set1_ps(scale)));
    for (int64_t j = 0; j < 4; ++j) out[rows[i + j]] = y[j];
  }
}

// Sixty-four bytes of four columns as dwords of one row each: vector v holds bytes 4v … 4v + 3 of every 16.
struct Quad {
  __m512i v0, v1, v2, v3;
};
[[gnu::always_inline]] inline Quad interleave(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
  const __m512i wa = _mm512_loadu_si512(a), wb = _mm512_loadu_si512(b), wc = _mm512_loadu_si512(c), wd = _mm512_loadu_si512(d);
  const __m512i ab = _mm512_unpacklo_epi8(wa, wb), cd = _mm512_unpacklo_epi8(wc, wd);
  const __m512i ab_high = _mm512_unpackhi_epi8(wa, wb), cd_high = _mm512_unpackhi_epi8(wc, wd);
  return {_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd), _mm512_unpacklo_epi16(ab_high, cd_high),
          _mm512_unpackhi_epi16(ab_high, cd_high)};
}

// Sixteen rows of each of the four bit pairs: sums + 64·j.
[[gnu::always_inline]] inline void add_eight(int32_t* sums, __m512i first, __m512i second, __m512i a, __m512i b) {
  const auto add = [&](int32_t* at, __m512i mask) __attribute__((always_inline)) {
    __m512i s = _mm512_loadu_si512(at);
    s = _mm512_dpbusd_epi32(s, _mm512_and_si512(first, mask), a);
    s = _mm512_dpbusd_epi32(s, _mm512_and_si512(second, mask), b);
    _mm512_storeu_si512(at, s);
  };
  add(sums, _mm512_set1_epi8(3));
  add(sums + 64, _mm512_set1_epi8(12));
  add(sums + 128, _mm512_set1_epi8(48));
  add(sums + 192, _mm512_set1_epi8(static_cast<char>(192)));
}

inline __m512i four_codes(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, 4);
  return _mm512_set1_epi32(word);
}

// Eight columns at a time, the whole of each: the sums stay in the first-level cache, the columns pass through.
inline void add_columns(const uint8_t* w, int64_t column_bytes, const int32_t* columns, int64_t n, const int8_t* codes, int32_t* sums) {
  ask_first(w, column_bytes, columns, n < kFirstAsk ? n : kFirstAsk);
  for (int64_t i = 0; i < n; i += 8) {
    const uint8_t* c[8];
    for (int64_t j = 0; j < 8; ++j) c[j] = w + columns[i + j] * column_bytes;
    const Ahead<8> ahead(w, column_bytes, columns, i, n);
    const __m512i a = four_codes(codes + i), b = four_codes(codes + i + 4);
    int32_t* at = sums;
    for (int64_t k = 0; k < column_bytes; k += 64, at += kColumnRows) {
      ahead.ask(k);
      const Quad x = interleave(c[0] + k, c[1] + k, c[2] + k, c[3] + k), y = interleave(c[4] + k, c[5] + k, c[6] + k, c[7] + k);
      add_eight(at, x.v0, y.v0, a, b);
      add_eight(at + 16, x.v1, y.v1, a, b);
      add_eight(at + 32, x.v2, y.v2, a, b);
      add_eight(at + 48, x.v3, y.v3, a, b);
    }
  }
}

}  // namespace
}  // namespace tritium
