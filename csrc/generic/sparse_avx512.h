// Sparse products with 512-bit VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "generic/ahead.h"
#include "kernel.h"

namespace tritium {
namespace {

// Bit pairs are multiplied where they stand, each with the lower ones: a sum is 4^j times what it means, and the sum before it.
constexpr bool kSumsNested = true;
// Those of kColumnRows rows are in registers while a token's columns pass.
constexpr bool kSumsStay = true;

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
[[gnu::always_inline]] inline __m256i fold(const RowSums& s) {
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
template <class Asks>
inline void multiply_rows(const uint8_t* w, int64_t row_bytes, int32_t* rows, int64_t n, const int8_t* a, int32_t total,
                          float scale, float* out, Asks& asks) {
  for (int64_t i = n; i % 4 != 0; ++i) rows[i] = rows[n - 1];
  asks.begin(w, row_bytes, rows, n);
  for (int64_t i = 0; i < n; i += 4) {
    const uint8_t* row[4];
    for (int64_t j = 0; j < 4; ++j) row[j] = w + rows[i + j] * row_bytes;
    auto&& ahead = asks.template at<4>(w, row_bytes, rows, i, n);
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

// Sums of sixteen rows of each of the four bit pairs with those below it, which stand 64 apart.
struct PairSums {
  __m512i s0, s1, s2, s3;
};
[[gnu::always_inline]] inline PairSums load_sums(const int32_t* at) {
  return {_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64), _mm512_loadu_si512(at + 128), _mm512_loadu_si512(at + 192)};
}
[[gnu::always_inline]] inline void store_sums(const PairSums& s, int32_t* at) {
  _mm512_storeu_si512(at, s.s0);
  _mm512_storeu_si512(at + 64, s.s1);
  _mm512_storeu_si512(at + 128, s.s2);
  _mm512_storeu_si512(at + 192, s.s3);
}
[[gnu::always_inline]] inline void add_four(PairSums& s, __m512i packed, __m512i a) {
  s.s0 = _mm512_dpbusd_epi32(s.s0, _mm512_and_si512(packed, _mm512_set1_epi8(3)), a);
  s.s1 = _mm512_dpbusd_epi32(s.s1, _mm512_and_si512(packed, _mm512_set1_epi8(15)), a);
  s.s2 = _mm512_dpbusd_epi32(s.s2, _mm512_and_si512(packed, _mm512_set1_epi8(63)), a);
  s.s3 = _mm512_dpbusd_epi32(s.s3, packed, a);
  asm("" : "+v"(s.s0), "+v"(s.s1), "+v"(s.s2), "+v"(s.s3));
}

inline __m512i four_codes(const int8_t* q) {
  int32_t word;
  __builtin_memcpy(&word, q, 4);
  return _mm512_set1_epi32(word);
}

constexpr int64_t kTogether = 24;

// A few columns at a time, block by block of all of them: a block's sums stay in registers while the columns pass. Measured on Zen 4:
// columns that come from memory pass 1.6 times as fast as eight at a time, the whole of each.
inline void add_columns(const uint8_t* w, int64_t column_bytes, const int32_t* columns, int64_t n, const int8_t* codes, int32_t* sums) {
  ask_first(w, column_bytes, columns, n < kTogether ? n : kTogether);
  for (int64_t i = 0; i < n; i += kTogether) {
    const int64_t here = n - i < kTogether ? (n - i + 3) / 4 * 4 : kTogether;
    const Group<kTogether> group(w, column_bytes, columns, i, here, n);
    int32_t* at = sums;
    for (int64_t b = 0; b < column_bytes; b += 64, at += kColumnRows) {
      PairSums s0 = load_sums(at), s1 = load_sums(at + 16), s2 = load_sums(at + 32), s3 = load_sums(at + 48);
      const Lines after = lines_after(group, b), again = lines_again(group, b, column_bytes);
      for (int64_t j = 0; j < here; j += 4) {
#pragma GCC unroll 4
        for (int64_t c = j; c < j + 4; ++c) {
          after.ask(c);
          again.ask(c);
        }
        const uint8_t* const* c = group.now + j;
        const Quad x = interleave(c[0] + b, c[1] + b, c[2] + b, c[3] + b);
        const __m512i a = four_codes(codes + i + j);
        add_four(s0, x.v0, a);
        add_four(s1, x.v1, a);
        add_four(s2, x.v2, a);
        add_four(s3, x.v3, a);
      }
      store_sums(s0, at);
      store_sums(s1, at + 16);
      store_sums(s2, at + 32);
      store_sums(s3, at + 48);
    }
  }
}

// Columns that are near: block by block, all of them. A block's sums stay in registers. Lines come from the second level to the first
// two steps before they are read: what waits for them would fill the window in which instructions pass one another.
template <class Asks>
inline void add_near_columns(const uint8_t* w, int64_t n_bytes, const int32_t* offsets, int64_t n, const int8_t* codes, int32_t* sums,
                             Asks& all_asks) {
  Asks asks = all_asks;  // in registers
  for (int64_t b = 0; b < n_bytes; b += 64, sums += kColumnRows) {
    const uint8_t* block = w + b;
    PairSums s0 = load_sums(sums), s1 = load_sums(sums + 16), s2 = load_sums(sums + 32), s3 = load_sums(sums + 48);
    for (int64_t j = 0; j < n; j += 4) {
      const int32_t* c = offsets + j;
      asks.lines();
#pragma GCC unroll 4
      for (int64_t i = 8; i < 12; ++i) _mm_prefetch(reinterpret_cast<const char*>(block + c[i]), _MM_HINT_T0);
      const Quad x = interleave(block + c[0], block + c[1], block + c[2], block + c[3]);
      const __m512i a = four_codes(codes + j);
      add_four(s0, x.v0, a);
      add_four(s1, x.v1, a);
      add_four(s2, x.v2, a);
      add_four(s3, x.v3, a);
    }
    store_sums(s0, sums);
    store_sums(s1, sums + 16);
    store_sums(s2, sums + 32);
    store_sums(s3, sums + 48);
  }
  all_asks = asks;
}

}  // namespace
}  // namespace tritium
