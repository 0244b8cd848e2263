// Products with tq1 panels, with 512-bit VNNI and the permutations of bytes of VBMI, which csrc/registry.cpp asks for.
#pragma once

#include <iterator>

#include "generic/linear_avx512.h"

namespace tritium {
namespace {

// The four digits of the numbers below 3⁴ as the codes of an i2s byte.
struct Codes {
  alignas(64) uint8_t of[128];
};
constexpr Codes kCodes = [] {
  Codes codes{};
  for (int r = 0; r < 81; ++r) codes.of[r] = static_cast<uint8_t>(r % 3 | r / 3 % 3 << 2 | r / 9 % 3 << 4 | r / 27 << 6);
  return codes;
}();

struct Table {
  __m512i low, high;
  explicit Table(const uint8_t* bytes) : low(_mm512_load_si512(bytes)), high(_mm512_load_si512(bytes + 64)) {}
};
// In assembly: the unit's flags do not know VBMI, or the compiler would use it elsewhere, too.
[[gnu::always_inline]] inline __m512i look_up(const Table& table, __m512i index) {
  asm("vpermi2b %2, %1, %0" : "+v"(index) : "v"(table.low), "v"(table.high));
  return index;
}

// By the upper six bits of a byte, 85·digit of its fifth digit.
struct FifthDigits {
  alignas(64) uint8_t of[64];
};
constexpr FifthDigits kFifthDigits = [] {
  FifthDigits digits{};
  for (int i = 0; i < 64; ++i) digits.of[i] = static_cast<uint8_t>(kFifthDigit * (i < 21 ? 0 : i < 42 ? 1 : 2));
  return digits;
}();
// The look-up reads the low six bits of an index: what the shift carries over from the next byte lies above them.
[[gnu::always_inline]] inline __m512i fifth_of(__m512i v, __m512i table) {
  __m512i fifth;
  asm("vpermb %2, %1, %0" : "=v"(fifth) : "v"(_mm512_srli_epi32(v, 2)), "v"(table));
  return fifth;
}

// What takes bytes of a panel apart.
struct TritTables {
  Table codes{kCodes.of};
  __m512i fifth = _mm512_load_si512(kFifthDigits.of);
};

// Σ of T tokens: of four digits of a byte, and of 85 times the fifth. Three tokens or fewer have registers for a sum a digit, as
// code·4^j, which saves shifts: |sum| ≤ 128·128·K/5.
template <int T>
struct TritSums {
  static constexpr bool kIsWide = T <= 3;
  Rows16<T> first, fifth;
  Rows16<kIsWide ? T : 1> second, third, fourth;
};

template <int T>
[[gnu::always_inline]] inline void clear(TritSums<T>& s) {
  clear(s.first);
  clear(s.second);
  clear(s.third);
  clear(s.fourth);
  clear(s.fifth);
}

// One block of T tokens: `a` meets the four digits, `last` the fifth. Measured on Zen 4: a look-up in two registers keeps products waiting,
// masks hardly do, so all four digits come of one.
template <int T>
[[gnu::always_inline]] inline void add_block(TritSums<T>& s, const uint8_t* block, const TritTables& tables, const int8_t* a, const int8_t* last,
                                             int64_t stride) {
  constexpr int64_t ahead = T == 1 ? 6144 : 2048;
  _mm_prefetch(reinterpret_cast<const char*>(block + ahead), _MM_HINT_T0);
  const __m512i v = _mm512_loadu_si512(block), fifth = fifth_of(v, tables.fifth);
  const __m512i codes = look_up(tables.codes, _mm512_sub_epi8(v, fifth));
  add_dots(s.fifth, fifth, last, stride);
  if constexpr (TritSums<T>::kIsWide) {
    add_dots(s.first, _mm512_and_si512(codes, _mm512_set1_epi8(3)), a, stride);
    add_dots(s.second, _mm512_and_si512(codes, _mm512_set1_epi8(12)), a + 4, stride);
    add_dots(s.third, _mm512_and_si512(codes, _mm512_set1_epi8(48)), a + 8, stride);
    add_dots(s.fourth, _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(192))), a + 12, stride);
  } else {
    const __m512i mask = _mm512_set1_epi8(3);
    add_dots(s.first, _mm512_and_si512(codes, mask), a, stride);
    add_dots(s.first, _mm512_and_si512(_mm512_srli_epi32(codes, 2), mask), a + 4, stride);
    add_dots(s.first, _mm512_and_si512(_mm512_srli_epi32(codes, 4), mask), a + 8, stride);
    add_dots(s.first, _mm512_and_si512(_mm512_srli_epi32(codes, 6), mask), a + 12, stride);
  }
}

// Groups of four blocks × 80 columns of T tokens. |Σ digit·a| ≤ 256·K; what 85·digit adds up to may wrap around.
template <int T>
[[gnu::always_inline]] inline void add_groups(TritSums<T>& s, const uint8_t* block, int64_t n_groups, const int8_t* a, int64_t stride) {
  const TritTables tables;
  for (const uint8_t* stop = block + kGroupBytes * n_groups; block < stop; block += kGroupBytes, a += kTritDepth) {
    const int8_t* last = a + 4 * kPanelDepth;
    add_block(s, block, tables, a, last, stride);
    add_block(s, block + kPanelBlockBytes, tables, a + kPanelDepth, last + 4, stride);
    add_block(s, block + 2 * kPanelBlockBytes, tables, a + 2 * kPanelDepth, last + 8, stride);
    add_block(s, block + 3 * kPanelBlockBytes, tables, a + 3 * kPanelDepth, last + 12, stride);
    settle(s.first);
    settle(s.second);
    settle(s.third);
    settle(s.fourth);
    settle(s.fifth);
  }
}

// s += 1/85 of the sums, whose 85-fold is known modulo 2³².
template <int T>
[[gnu::always_inline]] inline void add_parts_of_85(Rows16<T>& s, const Rows16<T>& sums) {
  if constexpr (T == 1) {
    constexpr uint32_t kInverse = 4244438269;
    static_assert(kFifthDigit * kInverse == 1);
    s.sum = _mm512_add_epi32(s.sum, _mm512_mullo_epi32(sums.sum, _mm512_set1_epi32(static_cast<int>(kInverse))));
  } else {
    add_parts_of_85(s.left, sums.left);
    add_parts_of_85(s.right, sums.right);
  }
}

// T tokens × one panel from its bytes, read once. `tail`: the last group's activations where rows end before it does.
template <int T>
void trit_panel(const uint8_t* panel, int64_t n_groups, int64_t n_whole, const int8_t* tail, const Tokens& x, const float* scales_w,
                int64_t column) {
  TritSums<T> s;
  clear(s);
  fetch_outputs(x, T, 1, column);
  add_groups(s, panel, n_whole, x.a, x.a_stride);
  if (n_whole < n_groups) add_groups(s, panel + kGroupBytes * n_whole, 1, tail, kTritDepth);
  if constexpr (TritSums<T>::kIsWide) {
    add_shifted(s.first, s.second, 2);
    add_shifted(s.first, s.third, 4);
    add_shifted(s.first, s.fourth, 6);
  }
  add_parts_of_85(s.first, s.fifth);
  __m512i sums[T];
  store(s.first, sums);
  finish(sums, T, 1, x, scales_w, column);
}

using TritPanel = void (*)(const uint8_t*, int64_t, int64_t, const int8_t*, const Tokens&, const float*, int64_t);
constexpr TritPanel kTritPanels[] = {trit_panel<1>, trit_panel<2>, trit_panel<3>, trit_panel<4>,
                                     trit_panel<5>, trit_panel<6>, trit_panel<7>, trit_panel<8>};
static_assert(std::size(kTritPanels) == kFewTokens);

// Tiles of at most kFewTokens tokens, of which each takes a panel's bytes apart for itself: beside so many products that costs nothing.
// Panels come from memory once for every kTritTokens tokens.
constexpr int64_t kTritTokens = 64;  // eight full tiles

void multiply_trits(const Call& call, int64_t begin, int64_t end, Work& work) {
  const TritPanels panels(call.weights[0]);
  const int64_t n_chunks = (call.t + kTritTokens - 1) / kTritTokens;
  for (int64_t c = 0; c < n_chunks; ++c) {
    const int64_t first = tile_start(c, call.t, n_chunks), n = tile_start(c + 1, call.t, n_chunks) - first;
    const int64_t n_tiles = (n + kFewTokens - 1) / kFewTokens;
    int32_t totals[kTritTokens];
    const Tokens x = tokens_of(call, first, n, panels.n_blocks, totals);
    const Tails<kTritTokens> tails(x.a, x.a_stride, n, call.weights[0].cols);
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t i = 0; i < n_tiles; ++i) {
        const int64_t t = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - t;
        kTritPanels[width - 1](panels.panel(p), panels.n_groups, tails.n_whole, tails.a + t * kTritDepth, x.at(t), panels.scales + p,
                               kPanelRows * p);
      }
    }
  }
  count_linear(call, panels, begin, end, work);
}

KERNEL_FUNCTION(tq1_gemv) { multiply_trits(call, begin, end, work); }
KERNEL_FUNCTION(tq1_gemm) { multiply_trits(call, begin, end, work); }

}  // namespace
}  // namespace tritium
