// Products with tq1 panels, with 512-bit VNNI.
#pragma once

#include <cpuid.h>

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

// 1/m modulo 2³² of an odd m: what a sum of multiples of m is multiplied by to be divided, even if it wrapped around.
constexpr uint32_t inverse_of(uint32_t m) {
  uint32_t x = m;  // right in three bits; each step doubles them
  for (int i = 0; i < 4; ++i) x *= 2 - m * x;
  return x;
}

// Two ways to take 64 bytes of a panel apart. `parts` is what their digits share, fifth() 85·d(4), digit<j>() d(j), and multiple<j>() a
// multiple of d(j) that is cheaper, which divide<j> takes back from a sum.

// With the permutations of bytes of VBMI. Measured on Zen 4: a look-up in two registers keeps products waiting, masks hardly do, so all
// four digits come of one.
struct Permuted {
  struct Parts {
    __m512i last, codes;
    __m512i fifth() const { return last; }
  };
  Table codes{kCodes.of};
  __m512i fifth = _mm512_load_si512(kFifthDigits.of);

  [[gnu::always_inline]] Parts parts(__m512i v) const {
    const __m512i last = fifth_of(v, fifth);
    return {last, look_up(codes, _mm512_sub_epi8(v, last))};
  }
  template <int j>
  [[gnu::always_inline]] __m512i digit(const Parts& p) const {
    return _mm512_and_si512(j == 0 ? p.codes : _mm512_srli_epi32(p.codes, 2 * j), _mm512_set1_epi8(3));
  }
  template <int j>
  [[gnu::always_inline]] __m512i multiple(const Parts& p) const {
    return _mm512_and_si512(p.codes, _mm512_set1_epi8(static_cast<char>(3 << 2 * j)));
  }
  template <int j>
  [[gnu::always_inline]] static __m512i divide(__m512i sum) {
    return _mm512_srai_epi32(sum, 2 * j);
  }
};

// By remainders alone: of the byte modulo 85, of that modulo 27, and of that modulo 9. What lies between two is a multiple of a digit.
struct Subtracted {
  struct Parts {
    __m512i byte, below_85, below_27, below_9;
    [[gnu::always_inline]] __m512i fifth() const { return _mm512_sub_epi8(byte, below_85); }
  };
  // By two digits as a number, and by the low four bits of 27·digit.
  __m512i first = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
  __m512i second = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0));
  __m512i fourth = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0));

  // Bytes below 3·m modulo m: what is subtracted too often wraps around to more than the byte was.
  [[gnu::always_inline]] static __m512i modulo(__m512i v, int m) {
    const __m512i once = _mm512_sub_epi8(v, _mm512_set1_epi8(static_cast<char>(m)));
    const __m512i twice = _mm512_sub_epi8(v, _mm512_set1_epi8(static_cast<char>(2 * m)));
    return _mm512_min_epu8(_mm512_min_epu8(v, once), twice);
  }
  [[gnu::always_inline]] Parts parts(__m512i v) const {
    const __m512i below_85 = modulo(v, kFifthDigit), below_27 = modulo(below_85, 27);
    return {v, below_85, below_27, modulo(below_27, 9)};
  }
  template <int j>
  [[gnu::always_inline]] __m512i digit(const Parts& p) const {
    if constexpr (j == 0) return _mm512_shuffle_epi8(first, p.below_9);
    if constexpr (j == 1) return _mm512_shuffle_epi8(second, p.below_9);
    if constexpr (j == 2) return _mm512_and_si512(multiple<2>(p), _mm512_set1_epi8(3));  // 9·d ends in the bits of d
    return _mm512_shuffle_epi8(fourth, multiple<3>(p));
  }
  template <int j>
  [[gnu::always_inline]] __m512i multiple(const Parts& p) const {
    if constexpr (j == 0) return digit<0>(p);
    if constexpr (j == 1) return _mm512_sub_epi8(p.below_9, digit<0>(p));
    if constexpr (j == 2) return _mm512_sub_epi8(p.below_27, p.below_9);
    return _mm512_sub_epi8(p.below_85, p.below_27);
  }
  template <int j>
  [[gnu::always_inline]] static __m512i divide(__m512i sum) {
    constexpr uint32_t factor = j == 0 ? 1 : j == 1 ? 3 : j == 2 ? 9 : 27;
    return _mm512_mullo_epi32(sum, _mm512_set1_epi32(static_cast<int>(inverse_of(factor))));
  }
};

// Σ of T tokens: of four digits of a byte, and of 85 times the fifth. Three tokens or fewer have registers for a sum a digit, of
// multiples: |sum| ≤ 128·128·K/5.
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

// One block of T tokens: `a` meets the four digits, `last` the fifth.
template <class Digits, int T>
[[gnu::always_inline]] inline void add_block(TritSums<T>& s, const uint8_t* block, const Digits& digits, const int8_t* a, const int8_t* last,
                                             int64_t stride) {
  constexpr int64_t ahead = T == 1 ? 6144 : 2048;
  _mm_prefetch(reinterpret_cast<const char*>(block + ahead), _MM_HINT_T0);
  const auto parts = digits.parts(_mm512_loadu_si512(block));
  add_dots(s.fifth, parts.fifth(), last, stride);
  if constexpr (TritSums<T>::kIsWide) {
    add_dots(s.first, digits.template multiple<0>(parts), a, stride);
    add_dots(s.second, digits.template multiple<1>(parts), a + 4, stride);
    add_dots(s.third, digits.template multiple<2>(parts), a + 8, stride);
    add_dots(s.fourth, digits.template multiple<3>(parts), a + 12, stride);
  } else {
    add_dots(s.first, digits.template digit<0>(parts), a, stride);
    add_dots(s.first, digits.template digit<1>(parts), a + 4, stride);
    add_dots(s.first, digits.template digit<2>(parts), a + 8, stride);
    add_dots(s.first, digits.template digit<3>(parts), a + 12, stride);
  }
}

// Groups of four blocks × 80 columns of T tokens. |Σ digit·a| ≤ 256·K; what 85·digit adds up to may wrap around.
template <class Digits, int T>
[[gnu::always_inline]] inline void add_groups(TritSums<T>& s, const uint8_t* block, int64_t n_groups, const int8_t* a, int64_t stride) {
  const Digits digits;
  for (const uint8_t* stop = block + kGroupBytes * n_groups; block < stop; block += kGroupBytes, a += kTritDepth) {
    const int8_t* last = a + 4 * kPanelDepth;
    add_block(s, block, digits, a, last, stride);
    add_block(s, block + kPanelBlockBytes, digits, a + kPanelDepth, last + 4, stride);
    add_block(s, block + 2 * kPanelBlockBytes, digits, a + 2 * kPanelDepth, last + 8, stride);
    add_block(s, block + 3 * kPanelBlockBytes, digits, a + 3 * kPanelDepth, last + 12, stride);
    settle(s.first);
    settle(s.second);
    settle(s.third);
    settle(s.fourth);
    settle(s.fifth);
  }
}

// s += f(sums)
template <int T, class Function>
[[gnu::always_inline]] inline void add_each(Rows16<T>& s, const Rows16<T>& sums, Function f) {
  if constexpr (T == 1) {
    s.sum = _mm512_add_epi32(s.sum, f(sums.sum));
  } else {
    add_each(s.left, sums.left, f);
    add_each(s.right, sums.right, f);
  }
}

static_assert(kFifthDigit * inverse_of(kFifthDigit) == 1 && 27 * inverse_of(27) == 1 && 9 * inverse_of(9) == 1 && 3 * inverse_of(3) == 1);

inline __m512i part_of_85(__m512i sum) { return _mm512_mullo_epi32(sum, _mm512_set1_epi32(static_cast<int>(inverse_of(kFifthDigit)))); }

// T tokens × one panel from its bytes, read once. `tail`: the last group's activations where rows end before it does.
template <class Digits, int T>
void trit_panel(const uint8_t* panel, int64_t n_groups, int64_t n_whole, const int8_t* tail, const Tokens& x, const float* scales_w,
                int64_t column) {
  TritSums<T> s;
  clear(s);
  fetch_outputs(x, T, 1, column);
  add_groups<Digits>(s, panel, n_whole, x.a, x.a_stride);
  if (n_whole < n_groups) add_groups<Digits>(s, panel + kGroupBytes * n_whole, 1, tail, kTritDepth);
  if constexpr (TritSums<T>::kIsWide) {
    add_each(s.first, s.second, Digits::template divide<1>);
    add_each(s.first, s.third, Digits::template divide<2>);
    add_each(s.first, s.fourth, Digits::template divide<3>);
  }
  add_each(s.first, s.fifth, part_of_85);
  __m512i sums[T];
  store(s.first, sums);
  finish(sums, T, 1, x, scales_w, column);
}

constexpr int64_t kFewTokens = 8;

using TritPanel = void (*)(const uint8_t*, int64_t, int64_t, const int8_t*, const Tokens&, const float*, int64_t);
template <class Digits>
constexpr TritPanel kTritPanels[] = {trit_panel<Digits, 1>, trit_panel<Digits, 2>, trit_panel<Digits, 3>, trit_panel<Digits, 4>,
                                     trit_panel<Digits, 5>, trit_panel<Digits, 6>, trit_panel<Digits, 7>, trit_panel<Digits, 8>};
static_assert(std::size(kTritPanels<Permuted>) == kFewTokens);

// Tiles of at most kFewTokens tokens, of which each takes a panel's bytes apart for itself: beside so many products that costs little.
// Panels come from memory once for every kTritTokens tokens.
constexpr int64_t kTritTokens = 64;  // eight full tiles

template <class Digits>
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
        kTritPanels<Digits>[width - 1](panels.panel(p), panels.n_groups, tails.n_whole, tails.a + t * kTritDepth, x.at(t),
                                       panels.scales + p, kPanelRows * p);
      }
    }
  }
  count_linear(call, panels, begin, end, work);
}

// Whether there is VBMI, which is no part of the instruction set. Asked once: a virtual machine's CPUID takes long.
inline bool has_byte_permutes() {
  static const bool has = [] {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_AVX512VBMI) != 0;
  }();
  return has;
}

inline void multiply_trits(const Call& call, int64_t begin, int64_t end, Work& work) {
  if (has_byte_permutes()) {
    multiply_trits<Permuted>(call, begin, end, work);
  } else {
    multiply_trits<Subtracted>(call, begin, end, work);
  }
}

KERNEL_FUNCTION(tq1_gemv) { multiply_trits(call, begin, end, work); }
KERNEL_FUNCTION(tq1_gemm) { multiply_trits(call, begin, end, work); }

}  // namespace
}  // namespace tritium
