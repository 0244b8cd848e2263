// Products with i2s and tq1 panels in 256-bit registers, from the sums of a unit's dot_*.h, which is included before.
#pragma once

#include <immintrin.h>

#include <type_traits>

#include "generic/bytes_avx2.h"
#include "generic/kernel_names.h"
#include "generic/panels.h"
#include "generic/trits_avx2.h"

namespace tritium {
namespace {

// Adds Σ (a + 128) of 32 activations to four sums of 64 bits: nothing can overflow.
inline __m256i add_bytes(__m256i total, __m256i a) {
  const __m256i bytes = _mm256_xor_si256(a, _mm256_set1_epi8(static_cast<char>(0x80)));
  return _mm256_add_epi64(total, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
}
// Σ a of n activations from their sums of a + 128.
inline int32_t sum_of(__m256i total, int64_t n) {
  const __m128i s = _mm_add_epi64(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  return static_cast<int32_t>(_mm_cvtsi128_si64(s) + _mm_extract_epi64(s, 1) - 128 * n);
}
// Σ a over n_blocks·16 activations; rows are padded with zeros to a multiple of 64.
inline int32_t sum_of(const int8_t* a, int64_t n_blocks) {
  const int64_t n = (kPanelDepth * n_blocks + 31) / 32 * 32;
  __m256i total = _mm256_setzero_si256();
  for (int64_t k = 0; k < n; k += 32) total = add_bytes(total, load_256(a + k));
  return sum_of(total, n);
}

// Eight rows of one token: f32(Σ code·a − Σ a)·scale, added to what is there or not.
inline void finish(__m256i acc, int32_t total, float scale, bool accumulate, float* out) {
  const __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(acc, _mm256_set1_epi32(total))), _mm256_set1_ps(scale));
  _mm256_storeu_ps(out, accumulate ? _mm256_add_ps(_mm256_loadu_ps(out), y) : y);
}

// The widest tile: 6 × 2 accumulators leave 4 registers. Up to kStreamed tokens a panel is read as it is stored.
constexpr int64_t kTile = 6;
constexpr int64_t kStreamed = kTableLeast - 1;

// Sums of T tokens × 16 rows, as a tree of members: gcc keeps arrays of vectors in memory.
template <int T>
struct Words {
  Words<T / 2> left;
  Words<T - T / 2> right;
};
template <>
struct Words<1> {
  __m256i lo, hi;
};

template <int T>
[[gnu::always_inline]] inline void clear(Words<T>& s) {
  if constexpr (T == 1) {
    s.lo = s.hi = _mm256_setzero_si256();
  } else {
    clear(s.left);
    clear(s.right);
  }
}
template <int T>
[[gnu::always_inline]] inline void add_products(Words<T>& s, __m256i lo, __m256i hi, const int8_t* a, int64_t stride) {
  if constexpr (T == 1) {
    add_products(s.lo, s.hi, lo, hi, a);
  } else {
    add_products(s.left, lo, hi, a, stride);
    add_products(s.right, lo, hi, a + T / 2 * stride, stride);
  }
}
template <int T>
[[gnu::always_inline]] inline void flush(const Words<T>& s, __m256i* sums) {
  if constexpr (T == 1) {
    sums[0] = flush(sums[0], s.lo);
    sums[1] = flush(sums[1], s.hi);
  } else {
    flush(s.left, sums);
    flush(s.right, sums + T / 2 * 2);
  }
}

// Blocks of a panel as they are stored, and with a byte a code: the four k of quad j side by side for all rows. A tile forms their
// products with T tokens, of at most kFlushBlocks blocks, then one flush.
struct Packed {
  static constexpr int64_t kBytes = kPanelBlockBytes;
  static __m256i codes(const uint8_t* half, int quad) { return codes_of(load_256(half), 2 * quad); }
};
struct Unpacked {
  static constexpr int64_t kBytes = 4 * kPanelBlockBytes;
  static __m256i codes(const uint8_t* half, int quad) { return load_256(half + kPanelBlockBytes * quad); }
};
// What memory delivers while it is asked for more: how far ahead of the products packed bytes are fetched.
constexpr int64_t kAhead = 4096;

// Few sums that are slow form two chains; those of three tokens would not stay in registers.
template <int T>
constexpr bool kTwoChains = kSlowSums && T <= 2;

template <class Form, int T>
void tile(const uint8_t* block, int64_t n_blocks, const int8_t* a, int64_t stride, __m256i* sums) {
  Words<T> words, others;
  clear(words);
  clear(others);
  Words<T>& odd = kTwoChains<T> ? others : words;
  const uint8_t* stop = block + Form::kBytes * n_blocks;
  do {
    if constexpr (Form::kBytes == kPanelBlockBytes) __builtin_prefetch(block + kAhead);
    add_products(words, Form::codes(block, 0), Form::codes(block + 32, 0), a, stride);
    add_products(odd, Form::codes(block, 1), Form::codes(block + 32, 1), a + 4, stride);
    add_products(words, Form::codes(block, 2), Form::codes(block + 32, 2), a + 8, stride);
    add_products(odd, Form::codes(block, 3), Form::codes(block + 32, 3), a + 12, stride);
    a += kPanelDepth;
    block += Form::kBytes;
  } while (block < stop);
  flush(words, sums);
  if constexpr (kTwoChains<T>) flush(others, sums);
}

using Tile = void (*)(const uint8_t*, int64_t, const int8_t*, int64_t, __m256i*);
template <class Form>
constexpr Tile kTiles[] = {tile<Form, 1>, tile<Form, 2>, tile<Form, 3>, tile<Form, 4>, tile<Form, 5>, tile<Form, 6>};

// At most 16 blocks of a panel × n tokens, added to two vectors of sums a token.
template <class Form>
void multiply(const uint8_t* block, int64_t n_blocks, int64_t n, const int8_t* a, int64_t stride, __m256i* sums) {
  const int64_t n_tiles = (n + kTile - 1) / kTile;
  for (int64_t i = 0; i < n_tiles; ++i) {
    const int64_t t = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - t;
    kTiles<Form>[width - 1](block, n_blocks, a + t * stride, stride, sums + 2 * t);
  }
}

// Tokens of a call.
struct Tokens {
  const int8_t* a;
  int64_t a_stride;
  const float* scales;
  int64_t scale_stride;
  float* out;
  int64_t out_stride;
  bool accumulate;

  Tokens(const Call& call, int64_t first)
      : a(call.in[0].row<const int8_t>(first)),
        a_stride(call.in[0].stride),
        scales(call.in[1].row<const float>(first)),
        scale_stride(call.in[1].stride),
        out(call.out[0].row<float>(first)),
        out_stride(call.out[0].stride),
        accumulate(call.ints[4] != 0) {}
};

// The outputs of token t and the panels [begin, end); a panel's sums are `step` vectors behind those of the one before.
inline void finish(const Tokens& x, const PanelRange& panels, int64_t t, int32_t total, int64_t begin, int64_t end, const __m256i* sums,
                   int64_t step) {
  const float scale_x = x.scales[t * x.scale_stride];
  float* out = x.out + t * x.out_stride;
  const bool accumulate = x.accumulate;
  for (int64_t p = begin; p < end; ++p, sums += step) {
    const float scale = scale_x * panels.scales[p];
    finish(sums[0], total, scale, accumulate, out + kPanelRows * p);
    finish(sums[1], total, scale, accumulate, out + kPanelRows * p + 8);
  }
}

// The lines that a panel's outputs are written to, or added to, come while the products are formed.
inline void fetch_outputs(const Tokens& x, int64_t n, int64_t p) {
  for (int64_t t = 0; t < n; ++t) __builtin_prefetch(x.out + t * x.out_stride + kPanelRows * p, 1);
}

// What of a panel is multiplied between two flushes: whole groups of digits.
template <class P>
constexpr int64_t kStripBlocks = kFlushBlocks;
template <>
constexpr int64_t kStripBlocks<TritPanels> = kFlushBlocks / kGroupBlocks * kGroupBlocks;

template <class P>
int64_t blocks_at(const P& panels, int64_t b) {
  return panels.n_blocks - b < kStripBlocks<P> ? panels.n_blocks - b : kStripBlocks<P>;
}
inline const uint8_t* strip_of(const Panels& panels, int64_t p, int64_t b) { return panels.panel(p) + kPanelBlockBytes * b; }
inline const uint8_t* strip_of(const TritPanels& panels, int64_t p, int64_t b) { return panels.panel(p) + kGroupBytes * (b / kGroupBlocks); }

// 16 blocks with a byte a code; `next` is fetched meanwhile.
inline void unpack(const Panels&, const uint8_t* block, int64_t n_blocks, const uint8_t* next, uint8_t* codes) {
  for (int64_t i = 0; i < n_blocks; ++i, codes += Unpacked::kBytes) {
    __builtin_prefetch(next + kPanelBlockBytes * i);
    const __m256i v = load_256(block + kPanelBlockBytes * i), w = load_256(block + kPanelBlockBytes * i + 32);
    for (int quad = 0; quad < 4; ++quad) {
      store_256(codes + kPanelBlockBytes * quad, codes_of(v, 2 * quad));
      store_256(codes + kPanelBlockBytes * quad + 32, codes_of(w, 2 * quad));
    }
  }
}
inline void unpack(const TritPanels&, const uint8_t* block, int64_t n_blocks, const uint8_t* next, uint8_t* codes) {
  unpack_trits(block, n_blocks, next, codes);
}

// Few tokens: panel by panel, codes go from the packed bytes to the products without a stop; digits, by way of the first-level cache.
template <class P>
void stream(const Tokens& x, int64_t n, const P& panels, int64_t begin, int64_t end) {
  int32_t totals[kStreamed];
  for (int64_t t = 0; t < n; ++t) totals[t] = sum_of(x.a + t * x.a_stride, panels.n_blocks);
  for (int64_t p = begin; p < end; ++p) {
    fetch_outputs(x, n, p);
    __m256i sums[2 * kStreamed];
    for (int64_t t = 0; t < 2 * n; ++t) sums[t] = _mm256_setzero_si256();
    for (int64_t b = 0; b < panels.n_blocks; b += kStripBlocks<P>) {
      const uint8_t* strip = strip_of(panels, p, b);
      const int64_t n_blocks = blocks_at(panels, b);
      if constexpr (std::is_same_v<P, Panels>) {
        multiply<Packed>(strip, n_blocks, n, x.a + kPanelDepth * b, x.a_stride, sums);
      } else {
        alignas(64) uint8_t codes[kStripBlocks<P> * Unpacked::kBytes];
        unpack(panels, strip, n_blocks, strip + kAhead, codes);
        multiply<Unpacked>(codes, n_blocks, n, x.a + kPanelDepth * b, x.a_stride, sums);
      }
    }
    for (int64_t t = 0; t < n; ++t) finish(x, panels, t, totals[t], p, p + 1, sums + 2 * t, 0);
  }
}

// One token and a panel: two vectors of sums.
void multiply_one(const uint8_t* block, int64_t n_blocks, const int8_t* a, __m256i* sums) {
  PairSums lo, hi;
  clear(lo);
  clear(hi);
  for (int64_t b = 0; b < n_blocks; b += kFlushBlocks) {
    const uint8_t* stop = block + kPanelBlockBytes * (n_blocks - b < kFlushBlocks ? n_blocks - b : kFlushBlocks);
    do {
      __builtin_prefetch(block + kAhead);
      const __m256i x0 = four(a), x1 = four(a + 4), x2 = four(a + 8), x3 = four(a + 12);
      add_pairs(lo, load_256(block), x0, x1, x2, x3);
      add_pairs(hi, load_256(block + 32), x0, x1, x2, x3);
      block += kPanelBlockBytes;
      a += kPanelDepth;
    } while (block < stop);
    flush(lo);
    flush(hi);
  }
  sums[0] = sum_of(lo);
  sums[1] = sum_of(hi);
}

// One token × n_groups groups of a panel of digits, which make 20 additions a lane each; at most three groups.
void multiply_groups(const uint8_t* block, int64_t n_groups, const int8_t* a, __m256i* sums) {
  Words<1> words;
  clear(words);
  for (const int8_t* stop = a + kTritDepth * n_groups; a < stop; a += kTritDepth) {
    for (int64_t i = 0; i < 4; ++i, block += kPanelBlockBytes) {
      __builtin_prefetch(block + kAhead);
      const FiveDigits low = digits_at(block), high = digits_at(block + 32);
      const int8_t* x = a + kPanelDepth * i;
      Words<1> five;
      clear(five);
      Words<1>& s = kSlowSums ? five : words;
      add_products(s.lo, s.hi, low.d0, high.d0, x);
      add_products(s.lo, s.hi, low.d1, high.d1, x + 4);
      add_products(s.lo, s.hi, low.d2, high.d2, x + 8);
      add_products(s.lo, s.hi, low.d3, high.d3, x + 12);
      add_products(s.lo, s.hi, low.d4, high.d4, a + 4 * kPanelDepth + 4 * i);
      if constexpr (kSlowSums) {
        words.lo = flush(words.lo, five.lo);
        words.hi = flush(words.hi, five.hi);
      }
    }
  }
  flush(words, sums);
}

// One token: every panel of the range streams through registers, bytes are read once.
KERNEL_FUNCTION(i2s_gemv) {
  const Panels panels(call.weights[0]);
  const Tokens x(call, 0);
  const int32_t total = sum_of(x.a, panels.n_blocks);
  for (int64_t p = begin; p < end; ++p) {
    __m256i sums[2];
    multiply_one(panels.panel(p), panels.n_blocks, x.a, sums);
    finish(x, panels, 0, total, p, p + 1, sums, 0);
  }
  count_linear(call, panels, begin, end, work);
}

KERNEL_FUNCTION(tq1_gemv) {
  constexpr int64_t kGroups = kStripBlocks<TritPanels> / kGroupBlocks;
  const TritPanels panels(call.weights[0]);
  const Tokens x(call, 0);
  const Tails<1> tail(x.a, x.a_stride, 1, call.weights[0].cols);
  const int32_t total = sum_of(x.a, panels.n_blocks);
  for (int64_t p = begin; p < end; ++p) {
    const uint8_t* panel = panels.panel(p);
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t g = 0; g < tail.n_whole; g += kGroups) {
      const int64_t left = tail.n_whole - g;
      multiply_groups(panel + kGroupBytes * g, left < kGroups ? left : kGroups, x.a + kTritDepth * g, sums);
    }
    if (tail.n_whole < panels.n_groups) multiply_groups(panel + kGroupBytes * tail.n_whole, 1, tail.a, sums);
    finish(x, panels, 0, total, p, p + 1, sums, 0);
  }
  count_linear(call, panels, begin, end, work);
}

}  // namespace
}  // namespace tritium
