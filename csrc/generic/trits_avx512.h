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
  constexpr int64_t ahead = T == 1 ? 4096 : 2048;
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

// T tokens × one panel from its bytes, read once.
template <int T>
void trit_panel(const uint8_t* panel, int64_t n_groups, const Tails<kFewTokens>& tails, const Tokens& x, const float* scales_w,
                             int64_t column) {
  TritSums<T> s;
  clear(s);
  add_groups(s, panel, tails.n_whole, x.a, x.a_stride);
  if (tails.n_whole < n_groups) add_groups(s, panel + kGroupBytes * tails.n_whole, 1, tails.a, kTritDepth);
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

using TritPanel = void (*)(const uint8_t*, int64_t, const Tails<kFewTokens>&, const Tokens&, const float*, int64_t);
constexpr TritPanel kTritPanels[] = {trit_panel<1>, trit_panel<2>, trit_panel<3>, trit_panel<4>,
                                     trit_panel<5>, trit_panel<6>, trit_panel<7>, trit_panel<8>};
static_assert(std::size(kTritPanels) == kFewTokens);

// At most kFewTokens tokens: no byte is unpacked twice.
void multiply_few(const Call& call, const TritPanels& panels, int64_t begin, int64_t end) {
  int32_t totals[kFewTokens];
  const Tokens x = tokens_of(call, 0, call.t, panels.n_blocks, totals);
  const Tails<kFewTokens> tails(x.a, x.a_stride, call.t, call.weights[0].cols);
  for (int64_t p = begin; p < end; ++p) {
    kTritPanels[call.t - 1](panels.panel(p), panels.n_groups, tails, x, panels.scales + p, kPanelRows * p);
  }
}

// A panel as the codes of an i2s panel; the panel `next_bytes` behind it comes to the second-level cache meanwhile.
void unpack_panel(const uint8_t* block, int64_t n_groups, int64_t next_bytes, uint8_t* out) {
  const TritTables tables;
  const __m512i mask = _mm512_set1_epi8(3);
  for (int64_t g = 0; g < n_groups; ++g, out += kGroupBlocks * kPanelBlockBytes) {
    __m512i fifths = _mm512_setzero_si512();
    for (int i = 0; i < 4; ++i, block += kPanelBlockBytes) {
      _mm_prefetch(reinterpret_cast<const char*>(block + next_bytes), _MM_HINT_T1);
      const __m512i v = _mm512_loadu_si512(block), of_85 = fifth_of(v, tables.fifth);
      _mm512_storeu_si512(out + i * kPanelBlockBytes, look_up(tables.codes, _mm512_sub_epi8(v, of_85)));
      // 85 and 170 end in the bits 01 and 10.
      const __m512i fifth = _mm512_and_si512(of_85, mask);
      fifths = _mm512_or_si512(fifths, _mm512_slli_epi16(fifth, static_cast<unsigned>(2 * i)));
    }
    _mm512_storeu_si512(out + 4 * kPanelBlockBytes, fifths);
  }
}

// Many tokens share panels that are unpacked to the scratch memory once for every 96 of them.
void multiply_many(const Call& call, const TritPanels& panels, int64_t begin, int64_t end) {
  const int64_t unpacked = panels.n_groups * kGroupBlocks * kPanelBlockBytes;
  const int64_t n_chunks = (call.t + kTokens - 1) / kTokens;
  auto* codes = reinterpret_cast<uint8_t*>(call.scratch);
  for (int64_t c = 0; c < n_chunks; ++c) {
    const int64_t first = tile_start(c, call.t, n_chunks), n = tile_start(c + 1, call.t, n_chunks) - first;
    int32_t totals[kTokens];
    const Tokens x = tokens_of(call, first, n, panels.n_blocks, totals);
    for (int64_t p = begin; p < end;) {
      const bool is_pair = p + 1 < end;
      for (int64_t i = 0; i <= is_pair; ++i) unpack_panel(panels.panel(p + i), panels.n_groups, 2 * panels.bytes, codes + i * unpacked);
      multiply(codes, unpacked, panels.n_blocks, is_pair, n, x, panels.scales + p, kPanelRows * p);
      p += is_pair ? 2 : 1;
    }
  }
}

KERNEL_FUNCTION(tq1_gemv) {
  const TritPanels panels(call.weights[0]);
  multiply_few(call, panels, begin, end);
  count_linear(call, panels, begin, end, work);
}

KERNEL_FUNCTION(tq1_gemm) {
  const TritPanels panels(call.weights[0]);
  if (call.t <= kFewTokens) {
    multiply_few(call, panels, begin, end);
  } else {
    multiply_many(call, panels, begin, end);
  }
  count_linear(call, panels, begin, end, work);
}

}  // namespace
}  // namespace tritium
