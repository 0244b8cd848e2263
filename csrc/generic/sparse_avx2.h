// Sparse products in 256-bit registers, from the sums of a unit's dot_*.h, which is included before.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "generic/ahead.h"
#include "generic/bytes_avx2.h"
#include "kernel.h"

namespace tritium {
namespace {

constexpr int64_t kTogether = 32;
constexpr bool kSumsNested = false;
constexpr bool kSumsStay = false;

// Products of two columns and their codes: vpmaddubsw adds at least −512 and at most 508 to an int16 lane, 64 times at most.
static_assert(kTogether / 2 <= 16);

// The places of the bits that are set in a byte, lowest first.
struct Places {
  uint8_t of[256][8];
  constexpr Places() : of{} {
    for (int mask = 0; mask < 256; ++mask) {
      for (int bit = 0, n = 0; bit < 8; ++bit) {
        if (mask >> bit & 1) of[mask][n++] = static_cast<uint8_t>(bit);
      }
    }
  }
};
constexpr Places kPlaces;

// Eight numbers of which bits are set in `chosen`; eight places of the list are written.
inline int64_t append(int32_t* list, int64_t n, uint32_t chosen, int64_t first) {
  const __m128i places = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.of[chosen]));
  const __m256i index = _mm256_add_epi32(_mm256_cvtepu8_epi32(places), _mm256_set1_epi32(static_cast<int32_t>(first)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(list + n), index);
  return n + __builtin_popcount(chosen);
}

// The indices in [first, last) of numbers above 0; a NaN is not. Sixteen places behind the last index are written too.
inline int64_t append_positive(const float* x, int64_t first, int64_t last, int32_t* list) {
  int64_t n = 0;
  int64_t i = first;
  for (; i + 8 <= last; i += 8) {
    const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_GT_OQ);
    n = append(list, n, static_cast<uint32_t>(_mm256_movemask_ps(above)), i);
  }
  for (; i < last; ++i) {
    list[n] = static_cast<int32_t>(i);
    n += x[i] > 0.0f;
  }
  return n;
}
inline int64_t append_nonzero(const int8_t* q, int64_t first, int64_t last, int32_t* list) {
  int64_t n = 0;
  int64_t i = first;
  for (; i + 16 <= last; i += 16) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + i));
    const uint32_t zeros = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(codes, _mm_setzero_si128())));
    n = append(list, n, ~zeros & 255, i);
    n = append(list, n, ~zeros >> 8 & 255, i + 8);
  }
  for (; i < last; ++i) {
    list[n] = static_cast<int32_t>(i);
    n += q[i] != 0;
  }
  return n;
}

inline int32_t sum_lanes(__m256i x) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
  return _mm_cvtsi128_si32(s) + _mm_extract_epi32(s, 1);
}

// k to the next multiple of 64 is zero.
inline int32_t sum_of_codes(const int8_t* q, int64_t k) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i total = _mm256_setzero_si256();
  for (int64_t i = 0; i < k; i += 32) {
    const __m256i words = _mm256_maddubs_epi16(ones, load_256(q + i));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
  }
  return sum_lanes(total);
}

// Rows hold codes in the order of the activations.
inline int32_t arrange(const int8_t* q, int64_t k, int8_t* a) {
  __builtin_memcpy(a, q, static_cast<size_t>(k));
  return sum_of_codes(q, k);
}

template <class Asks>
inline void multiply_rows(const uint8_t* w, int64_t row_bytes, const int32_t* rows, int64_t n, const int8_t* a, int32_t total,
                          float scale, float* out, Asks& asks) {
  asks.begin(w, row_bytes, rows, n);
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t* row = w + rows[i] * row_bytes;
    auto&& ahead = asks.template at<1>(w, row_bytes, rows, i, n);
    PairSums sums;
    clear(sums);
    for (int64_t b = 0; b < row_bytes;) {
      const int64_t stop = row_bytes - b < 32 * kFlushBlocks ? row_bytes : b + 32 * kFlushBlocks;
      for (; b < stop; b += 32) {
        ahead.ask(b);
        const int8_t* x = a + 4 * b;
        add_pairs(sums, load_256(row + b), load_256(x + 96), load_256(x + 64), load_256(x + 32), load_256(x));
      }
      flush(sums);
    }
    out[rows[i]] = static_cast<float>(sum_lanes(sum_of(sums)) - total) * scale;
  }
}

// int16 sums of 8 × 16 rows: bit pair j, low and high half of each 16 bytes.
struct HalfBlock {
  __m256i a0, b0, a1, b1, a2, b2, a3, b3;
};
[[gnu::always_inline]] inline void add_pair(__m256i& sum, __m256i packed, __m256i mask, __m256i q) {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_and_si256(packed, mask), q));
  asm("" : "+x"(sum));
}

// Sixteen words: eight rows of each of two groups of 16 bytes, in runs of four rows.
[[gnu::always_inline]] inline void add_words(int32_t* sums, __m256i words) {
  const auto add = [](int32_t* at, __m128i x) __attribute__((always_inline)) {
    __m128i* p = reinterpret_cast<__m128i*>(at);
    _mm_storeu_si128(p, _mm_add_epi32(_mm_loadu_si128(p), x));
  };
  const __m256i first = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(words));
  const __m256i second = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(words, 1));
  add(sums, _mm256_castsi256_si128(first));
  add(sums + 16, _mm256_extracti128_si256(first, 1));
  add(sums + 4, _mm256_castsi256_si128(second));
  add(sums + 20, _mm256_extracti128_si256(second, 1));
}

// 32 bytes of each of at most kTogether columns, which make 128 rows; as many lines are asked for.
template <class Wanted>
inline void add_half_block(const Lines& columns, int64_t n, Wanted& wanted, const int8_t* codes, int32_t* sums) {
  const __m256i zero = _mm256_setzero_si256(), three = _mm256_set1_epi8(3), twelve = _mm256_set1_epi8(12);
  HalfBlock s{zero, zero, zero, zero, zero, zero, zero, zero};
  for (int64_t i = 0; i < n; i += 2) {
    wanted.ask(i);
    wanted.ask(i + 1);
    const __m256i x = load_256(columns.of[i] + columns.offset), y = load_256(columns.of[i + 1] + columns.offset);
    const __m256i low = _mm256_unpacklo_epi8(x, y), high = _mm256_unpackhi_epi8(x, y);
    int16_t pair;
    __builtin_memcpy(&pair, codes + i, sizeof pair);
    const __m256i q = _mm256_set1_epi16(pair);
    add_pair(s.a0, low, three, q);
    add_pair(s.b0, high, three, q);
    add_pair(s.a1, low, twelve, q);
    add_pair(s.b1, high, twelve, q);
    const __m256i low_half = _mm256_srli_epi16(low, 4), high_half = _mm256_srli_epi16(high, 4);
    add_pair(s.a2, low_half, three, q);
    add_pair(s.b2, high_half, three, q);
    add_pair(s.a3, low_half, twelve, q);
    add_pair(s.b3, high_half, twelve, q);
  }
  add_words(sums, s.a0);
  add_words(sums + 32, s.b0);
  add_words(sums + 64, _mm256_srai_epi16(s.a1, 2));
  add_words(sums + 96, _mm256_srai_epi16(s.b1, 2));
  add_words(sums + 128, s.a2);
  add_words(sums + 160, s.b2);
  add_words(sums + 192, _mm256_srai_epi16(s.a3, 2));
  add_words(sums + 224, _mm256_srai_epi16(s.b3, 2));
}

// A few columns at a time, block by block of all of them: a block's sums stay in registers while the columns pass.
inline void add_columns(const uint8_t* w, int64_t column_bytes, const int32_t* columns, int64_t n, const int8_t* codes, int32_t* sums) {
  ask_first(w, column_bytes, columns, n < kTogether ? n : kTogether);
  for (int64_t i = 0; i < n; i += kTogether) {
    const int64_t here = n - i < kTogether ? (n - i + 1) / 2 * 2 : kTogether;
    const Group<kTogether> group(w, column_bytes, columns, i, here, n);
    for (int64_t b = 0; b < column_bytes; b += 64) {
      int32_t* at = sums + 4 * b;
      const Lines after = lines_after(group, b), again = lines_again(group, b, column_bytes);
      add_half_block({group.now, b}, here, after, codes + i, at);
      add_half_block({group.now, b + 32}, here, again, codes + i, at + 8);
    }
  }
}

// Columns that are near: what is asked for follows behind them.
template <class Asks>
inline void add_near_columns(const uint8_t* w, int64_t n_bytes, const int32_t* offsets, int64_t n, const int8_t* codes, int32_t* sums,
                             Asks& asks) {
  struct Wanted {
    Asks& asks;
    [[gnu::always_inline]] void ask(int64_t i) {
      if (i % 8 == 0) asks.lines();
    }
  } wanted{asks};
  for (int64_t i = 0; i < n; i += kTogether) {
    const int64_t here = n - i < kTogether ? (n - i + 1) / 2 * 2 : kTogether;
    const uint8_t* now[kTogether];
    for (int64_t j = 0; j < here; ++j) now[j] = w + offsets[i + j];
    for (int64_t b = 0; b < n_bytes; b += 64) {
      add_half_block({now, b}, here, wanted, codes + i, sums + 4 * b);
      add_half_block({now, b + 32}, here, wanted, codes + i, sums + 4 * b + 8);
    }
  }
}

}  // namespace
}  // namespace tritium
