// Products with i2s panels, with 512-bit VNNI.
#pragma once

#include <algorithm>

#include "generic/dot_avx512.h"
#include "generic/groups.h"
#include "generic/kernel_names.h"
#include "generic/panels.h"

namespace tritium {
namespace {

// Σ a over n_blocks·16 activations, in lanes of at most 4·128 an addition.
inline int32_t sum_of(const int8_t* a, int64_t n_blocks) {
  __m512i total = _mm512_setzero_si512();
  int64_t k = 0;
  for (; k + 64 <= 16 * n_blocks; k += 64) total = dot(total, _mm512_set1_epi8(1), _mm512_loadu_si512(a + k));
  const __mmask64 rest = (uint64_t{1} << (16 * n_blocks - k)) - 1;
  total = dot(total, _mm512_set1_epi8(1), _mm512_maskz_loadu_epi8(rest, a + k));
  return _mm512_reduce_add_epi32(total);
}

// Sixteen rows of one token: f32(Σ code·a − Σ a)·scale, added to what is there or not.
inline void finish(__m512i acc, int32_t total, float scale, bool accumulate, float* out) {
  const __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(acc, _mm512_set1_epi32(total))), _mm512_set1_ps(scale));
  _mm512_storeu_ps(out, accumulate ? _mm512_add_ps(_mm512_loadu_ps(out), y) : y);
}

// What a panel's sums need to become outputs.
struct Tokens {
  const int8_t* a;
  int64_t a_stride;
  const float* scales;
  int64_t scale_stride;
  const int32_t* totals;
  float* out;
  int64_t out_stride;
  bool accumulate;

  Tokens at(int64_t t) const {
    Tokens moved = *this;
    moved.a += t * a_stride;
    moved.scales += t * scale_stride;
    moved.totals += t;
    moved.out += t * out_stride;
    return moved;
  }
};

// Sums of n tokens × n_panels, panels side by side. They pass through memory: with the scaling in the same function as the products
// gcc keeps copies of the sums there during the products too.
void finish(const __m512i* sums, int64_t n, int64_t n_panels, const Tokens& x, const float* scales_w, int64_t column) {
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t p = 0; p < n_panels; ++p) {
      float* out = x.out + t * x.out_stride + column + kPanelRows * p;
      finish(sums[t * n_panels + p], x.totals[t], x.scales[t * x.scale_stride] * scales_w[p], x.accumulate, out);
    }
  }
}

// The lines that the sums of n tokens × n_panels are written to, or added to, come while the products are formed.
[[gnu::always_inline]] inline void fetch_outputs(const Tokens& x, int64_t n, int64_t n_panels, int64_t column) {
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t p = 0; p < n_panels; ++p) __builtin_prefetch(x.out + t * x.out_stride + column + kPanelRows * p, 1);
  }
}

// Few tokens, memory-bound: one panel, one stream. The four bit pairs of a byte are multiplied where they stand, as code·4^j in
// four sums that are shifted back at the end: |sum| ≤ 4·(K/16)·128·128 < 2³¹ for K < 2¹⁹, and exact, each a multiple of 4^j.
template <int T>
[[gnu::always_inline]] inline void dots_in_place(const uint8_t* block, int64_t n_blocks, const int8_t* a, int64_t a_stride, __m512i* sums) {
  const __m512i mask0 = _mm512_set1_epi8(3), mask1 = _mm512_set1_epi8(12), mask2 = _mm512_set1_epi8(48),
                mask3 = _mm512_set1_epi8(static_cast<char>(192));
  constexpr int64_t ahead = T == 1 ? 8192 : 2048;  // the faster bytes are used up, the more must be under way
  Rows16<T> s0, s1, s2, s3;
  clear(s0);
  clear(s1);
  clear(s2);
  clear(s3);
  const uint8_t* stop = block + kPanelBlockBytes * n_blocks;
  do {
    _mm_prefetch(reinterpret_cast<const char*>(block + ahead), _MM_HINT_T0);
    const __m512i w = _mm512_loadu_si512(block);
    add_dots(s0, _mm512_and_si512(w, mask0), a, a_stride);
    add_dots(s1, _mm512_and_si512(w, mask1), a + 4, a_stride);
    add_dots(s2, _mm512_and_si512(w, mask2), a + 8, a_stride);
    add_dots(s3, _mm512_and_si512(w, mask3), a + 12, a_stride);
    settle(s0);
    settle(s1);
    settle(s2);
    settle(s3);
    block += kPanelBlockBytes;
    a += kPanelDepth;
  } while (block < stop);
  add_shifted(s0, s1, 2);
  add_shifted(s0, s2, 4);
  add_shifted(s0, s3, 6);
  store(s0, sums);
}

template <int T>
void panel_in_place(const uint8_t* block, int64_t n_blocks, const Tokens& x, const float* scales_w, int64_t column) {
  __m512i sums[T];
  dots_in_place<T>(block, n_blocks, x.a, x.a_stride, sums);
  finish(sums, T, 1, x, scales_w, column);
}

// The sums of T tokens × two panels; each broadcast serves both.
template <int T>
struct Rows32 {
  Rows32<T / 2> left;
  Rows32<T - T / 2> right;
};
template <>
struct Rows32<1> {
  __m512i low, high;
};

template <int T>
[[gnu::always_inline]] inline void clear(Rows32<T>& s) {
  if constexpr (T == 1) {
    s.low = s.high = _mm512_setzero_si512();
  } else {
    clear(s.left);
    clear(s.right);
  }
}
template <int T>
[[gnu::always_inline]] inline void add_dots(Rows32<T>& s, __m512i low, __m512i high, const int8_t* a, int64_t stride) {
  if constexpr (T == 1) {
    const __m512i x = four(a);
    s.low = dot(s.low, low, x);
    s.high = dot(s.high, high, x);
  } else {
    add_dots(s.left, low, high, a, stride);
    add_dots(s.right, low, high, a + T / 2 * stride, stride);
  }
}
template <int T>
[[gnu::always_inline]] inline void settle(Rows32<T>& s) {
  if constexpr (T == 1) {
    settle(s.low);
    settle(s.high);
  } else {
    settle(s.left);
    settle(s.right);
  }
}
template <int T>
[[gnu::always_inline]] inline void store(const Rows32<T>& s, __m512i* sums) {
  if constexpr (T == 1) {
    sums[0] = s.low;
    sums[1] = s.high;
  } else {
    store(s.left, sums);
    store(s.right, sums + T / 2 * 2);
  }
}

// T tokens × one panel from the packed bytes: the vector units that shift and mask are not those that multiply. |sum| ≤ 256·K.
template <int T>
[[gnu::always_inline]] inline void dots_of_codes(const uint8_t* block, int64_t n_blocks, const int8_t* a, int64_t a_stride, __m512i* sums) {
  const __m512i mask = _mm512_set1_epi8(3);
  Rows16<T> s;
  clear(s);
  const uint8_t* stop = block + kPanelBlockBytes * n_blocks;
  do {
    _mm_prefetch(reinterpret_cast<const char*>(block + 2048), _MM_HINT_T0);
    const __m512i w = _mm512_loadu_si512(block);
    add_dots(s, _mm512_and_si512(w, mask), a, a_stride);
    add_dots(s, _mm512_and_si512(_mm512_srli_epi32(w, 2), mask), a + 4, a_stride);
    add_dots(s, _mm512_and_si512(_mm512_srli_epi32(w, 4), mask), a + 8, a_stride);
    add_dots(s, _mm512_and_si512(_mm512_srli_epi32(w, 6), mask), a + 12, a_stride);
    settle(s);
    block += kPanelBlockBytes;
    a += kPanelDepth;
  } while (block < stop);
  store(s, sums);
}

template <int T>
void panel_tile(const uint8_t* block, int64_t n_blocks, const Tokens& x, const float* scales_w, int64_t column) {
  __m512i sums[T];
  dots_of_codes<T>(block, n_blocks, x.a, x.a_stride, sums);
  finish(sums, T, 1, x, scales_w, column);
}

// Two panels with a byte a code: for every four columns the sixteen rows of one, then of the other.
constexpr int64_t kPairBytes = 8 * kPanelBlockBytes;  // of a block of both

// T tokens × two panels, `panel_bytes` apart, from the packed bytes. The next two come to the second-level cache meanwhile. Shifts and
// masks take an eighth of the time of vector units that multiply, too: what they make is kept in `codes` if tiles follow.
template <int T, bool kIsKept>
void pair_tile(const uint8_t* block, int64_t panel_bytes, int64_t n_blocks, uint8_t* codes, const Tokens& x, const float* scales_w,
               int64_t column) {
  const __m512i mask = _mm512_set1_epi8(3);
  Rows32<T> s;
  clear(s);
  fetch_outputs(x, T, 2, column);
  const int8_t* a = x.a;
  const auto add = [&](__m512i low, __m512i high, int j) __attribute__((always_inline)) {
    if constexpr (kIsKept) {
      _mm512_store_si512(codes + kPairBytes / 4 * j, low);
      _mm512_store_si512(codes + kPairBytes / 4 * j + kPanelBlockBytes, high);
    }
    add_dots(s, low, high, a + 4 * j, x.a_stride);
  };
  const uint8_t* stop = block + kPanelBlockBytes * n_blocks;
  do {
    _mm_prefetch(reinterpret_cast<const char*>(block + 2 * panel_bytes), _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(block + 3 * panel_bytes), _MM_HINT_T1);
    const __m512i v = _mm512_loadu_si512(block), w = _mm512_loadu_si512(block + panel_bytes);
    add(_mm512_and_si512(v, mask), _mm512_and_si512(w, mask), 0);
    add(_mm512_and_si512(_mm512_srli_epi32(v, 2), mask), _mm512_and_si512(_mm512_srli_epi32(w, 2), mask), 1);
    add(_mm512_and_si512(_mm512_srli_epi32(v, 4), mask), _mm512_and_si512(_mm512_srli_epi32(w, 4), mask), 2);
    add(_mm512_and_si512(_mm512_srli_epi32(v, 6), mask), _mm512_and_si512(_mm512_srli_epi32(w, 6), mask), 3);
    settle(s);
    block += kPanelBlockBytes;
    codes += kPairBytes;
    a += kPanelDepth;
  } while (block < stop);
  __m512i sums[2 * T];
  store(s, sums);
  finish(sums, T, 2, x, scales_w, column);
}

// T tokens × two panels from their codes.
template <int T>
void codes_tile(const uint8_t* codes, int64_t n_blocks, const Tokens& x, const float* scales_w, int64_t column) {
  Rows32<T> s;
  clear(s);
  fetch_outputs(x, T, 2, column);
  const int8_t* a = x.a;
  const auto add = [&](const uint8_t* four, const int8_t* a) __attribute__((always_inline)) {
    add_dots(s, _mm512_load_si512(four), _mm512_load_si512(four + kPanelBlockBytes), a, x.a_stride);
  };
  const uint8_t* stop = codes + kPairBytes * n_blocks;
  do {
    add(codes, a);
    add(codes + kPairBytes / 4, a + 4);
    settle(s);
    codes += kPairBytes / 2;
    a += kPanelDepth / 2;
  } while (codes < stop);
  __m512i sums[2 * T];
  store(s, sums);
  finish(sums, T, 2, x, scales_w, column);
}

// n tokens of a call from `first` on, with Σ a of each in `totals`.
inline Tokens tokens_of(const Call& call, int64_t first, int64_t n, int64_t n_blocks, int32_t* totals) {
  Tokens x;
  x.a = call.in[0].row<const int8_t>(first);
  x.a_stride = call.in[0].stride;
  x.scales = call.in[1].row<const float>(first);
  x.scale_stride = call.in[1].stride;
  x.totals = totals;
  x.out = call.out[0].row<float>(first);
  x.out_stride = call.out[0].stride;
  x.accumulate = call.ints[4] != 0;
  for (int64_t t = 0; t < n; ++t) totals[t] = sum_of(x.a + t * x.a_stride, n_blocks);
  return x;
}

// One token: every panel of the range streams through registers, bytes are read once.
KERNEL_FUNCTION(i2s_gemv) {
  const Panels panels(call.weights[0]);
  int32_t total;
  const Tokens x = tokens_of(call, 0, 1, panels.n_blocks, &total);
  for (int64_t p = begin; p < end; ++p) panel_in_place<1>(panels.panel(p), panels.n_blocks, x, panels.scales + p, kPanelRows * p);
  count_linear(call, panels, begin, end, work);
}

// Activations of so many tokens, or of so many bytes, stay in the second-level cache beside a pair's codes while a range's panels pass.
// Tiles are at most 12 × 2 panels: 24 sums leave 8 registers.
constexpr int64_t kTokens = 132, kTokenBytes = 1 << 19;
constexpr int64_t kTile = 12;
constexpr int64_t kInPlace = 6;  // tokens whose sums, four each, stay in registers

using Tile = void (*)(const uint8_t*, int64_t, const Tokens&, const float*, int64_t);
using PairTile = void (*)(const uint8_t*, int64_t, int64_t, uint8_t*, const Tokens&, const float*, int64_t);
constexpr Tile kSingle[] = {panel_in_place<1>, panel_in_place<2>, panel_in_place<3>, panel_in_place<4>,
                            panel_in_place<5>, panel_in_place<6>, panel_tile<7>,     panel_tile<8>,
                            panel_tile<9>,     panel_tile<10>,    panel_tile<11>,    panel_tile<12>};
constexpr int64_t kLeastOfPair = 6;
template <bool kIsKept>
constexpr PairTile kPair[] = {pair_tile<6, kIsKept>,  pair_tile<7, kIsKept>,  pair_tile<8, kIsKept>, pair_tile<9, kIsKept>,
                              pair_tile<10, kIsKept>, pair_tile<11, kIsKept>, pair_tile<12, kIsKept>};
constexpr Tile kOfCodes[] = {codes_tile<6>, codes_tile<7>, codes_tile<8>, codes_tile<9>, codes_tile<10>, codes_tile<11>, codes_tile<12>};

// All tokens × a panel, or two side by side. Tiles are of nearly equal size, so none of several has fewer than 6 tokens.
void multiply(const Panels& panels, int64_t p, bool is_pair, uint8_t* codes, int64_t n, const Tokens& x) {
  const int64_t n_tiles = (n + kTile - 1) / kTile, column = kPanelRows * p;
  const uint8_t* panel = panels.panel(p);
  const float* scales = panels.scales + p;
  for (int64_t i = 0; i < n_tiles; ++i) {
    const int64_t t = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - t;
    if (!is_pair) {
      kSingle[width - 1](panel, panels.n_blocks, x.at(t), scales, column);
    } else if (i == 0) {
      const PairTile tile = (n_tiles > 1 ? kPair<true> : kPair<false>)[width - kLeastOfPair];
      tile(panel, panels.bytes, panels.n_blocks, codes, x.at(t), scales, column);
    } else {
      kOfCodes[width - kLeastOfPair](codes, panels.n_blocks, x.at(t), scales, column);
    }
  }
}

// Several tokens. Panels come from memory once if the range's bytes fit the cache, else once for every chunk of tokens.
KERNEL_FUNCTION(i2s_gemm) {
  const Panels panels(call.weights[0]);
  const bool has_room = panels.n_blocks * kPairBytes <= call.scratch_floats * static_cast<int64_t>(sizeof(float));
  const int64_t near = std::clamp(kTokenBytes / (kPanelDepth * panels.n_blocks) / kTile * kTile, 4 * kTile, kTokens);
  const int64_t n_chunks = (call.t + near - 1) / near;
  for (int64_t c = 0; c < n_chunks; ++c) {
    const int64_t first = tile_start(c, call.t, n_chunks), n = tile_start(c + 1, call.t, n_chunks) - first;
    int32_t totals[kTokens];
    const Tokens x = tokens_of(call, first, n, panels.n_blocks, totals);
    // One panel, one stream while memory bounds the speed; two panels, each activation for both, where products do.
    for (int64_t p = begin; p < end;) {
      const bool is_pair = n > kInPlace && has_room && p + 1 < end;
      multiply(panels, p, is_pair, reinterpret_cast<uint8_t*>(call.scratch), n, x);
      p += is_pair ? 2 : 1;
    }
  }
  count_linear(call, panels, begin, end, work);
}

// A group of a panel × T tokens: few from the bytes as they stand.
template <int T>
void group_tile(const uint8_t* codes, const int8_t* a, int64_t stride, int32_t* sums) {
  auto* vectors = reinterpret_cast<__m512i*>(sums);
  if constexpr (T <= kInPlace) {
    dots_in_place<T>(codes, ScaledPanels::kBlocks, a, stride, vectors);
  } else {
    dots_of_codes<T>(codes, ScaledPanels::kBlocks, a, stride, vectors);
  }
}
constexpr GroupTile kGroupTiles[] = {group_tile<1>, group_tile<2>, group_tile<3>, group_tile<4>,  group_tile<5>,  group_tile<6>,
                                     group_tile<7>, group_tile<8>, group_tile<9>, group_tile<10>, group_tile<11>, group_tile<12>};

inline int32_t group_total(const int8_t* a) { return sum_of(a, ScaledPanels::kBlocks); }

KERNEL_FUNCTION(i2s_groups_gemv) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }
KERNEL_FUNCTION(i2s_groups_gemm) { linear_groups(call, begin, end, kGroupTiles, kTile, group_total, work); }

}  // namespace
}  // namespace tritium
