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

// T tokens × one panel, one stream. Bit pairs of a byte are multiplied where they stand, as code·4^j in sums of their own that are
// shifted back at the end: |sum| ≤ 4·(K/16)·128·128 < 2³¹ for K < 2¹⁹, and exact, each a multiple of 4^j. Four sums a token while
// registers hold them, then two: the upper pairs are shifted down. Of token t and block b the activations stand at a + t·stride + b·step.
constexpr int64_t kWithFourSums = 6;

template <int T>
[[gnu::always_inline]] inline void dots_in_place(const uint8_t* block, int64_t n_blocks, const int8_t* a, int64_t stride, int64_t step,
                                                 __m512i* sums) {
  const __m512i mask0 = _mm512_set1_epi8(3), mask1 = _mm512_set1_epi8(12), mask2 = _mm512_set1_epi8(48),
                mask3 = _mm512_set1_epi8(static_cast<char>(192));
  constexpr bool has_four = T <= kWithFourSums;
  constexpr int64_t ahead = T == 1 ? 8192 : 2048;  // the faster bytes are used up, the more must be under way
  Rows16<T> s0, s1;
  Rows16<has_four ? T : 1> s2, s3;
  clear(s0);
  clear(s1);
  clear(s2);
  clear(s3);
  const uint8_t* stop = block + kPanelBlockBytes * n_blocks;
  do {
    _mm_prefetch(reinterpret_cast<const char*>(block + ahead), _MM_HINT_T0);
    const __m512i w = _mm512_loadu_si512(block);
    add_dots(s0, _mm512_and_si512(w, mask0), a, stride);
    add_dots(s1, _mm512_and_si512(w, mask1), a + 4, stride);
    if constexpr (has_four) {
      add_dots(s2, _mm512_and_si512(w, mask2), a + 8, stride);
      add_dots(s3, _mm512_and_si512(w, mask3), a + 12, stride);
      settle(s2);
      settle(s3);
    } else {
      const __m512i upper = _mm512_srli_epi32(w, 4);
      add_dots(s0, _mm512_and_si512(upper, mask0), a + 8, stride);
      add_dots(s1, _mm512_and_si512(upper, mask1), a + 12, stride);
    }
    settle(s0);
    settle(s1);
    block += kPanelBlockBytes;
    a += step;
  } while (block < stop);
  add_shifted(s0, s1, 2);
  if constexpr (has_four) {
    add_shifted(s0, s2, 4);
    add_shifted(s0, s3, 6);
  }
  store(s0, sums);
}

// `kIsBeside`: the tokens' activations stand side by side, kPanelDepth of each, so that their addresses need no index.
template <int T, bool kIsBeside>
void panel_in_place(const uint8_t* block, int64_t n_blocks, const Tokens& x, const float* scales_w, int64_t column) {
  __m512i sums[T];
  fetch_outputs(x, T, 1, column);
  dots_in_place<T>(block, n_blocks, x.a, kIsBeside ? kPanelDepth : x.a_stride, kIsBeside ? T * kPanelDepth : kPanelDepth, sums);
  finish(sums, T, 1, x, scales_w, column);
}

// The sums of T tokens × P panels; each broadcast serves all panels.
template <int T, int P>
struct Grid {
  Grid<T / 2, P> left;
  Grid<T - T / 2, P> right;
};
template <int P>
struct Grid<1, P> {
  Rows16<P> panels;
};

template <int T, int P>
[[gnu::always_inline]] inline void clear(Grid<T, P>& s) {
  if constexpr (T == 1) {
    clear(s.panels);
  } else {
    clear(s.left);
    clear(s.right);
  }
}
template <int P>
[[gnu::always_inline]] inline void add_products(Rows16<P>& s, const Rows16<P>& codes, __m512i a) {
  if constexpr (P == 1) {
    s.sum = dot(s.sum, codes.sum, a);
  } else {
    add_products(s.left, codes.left, a);
    add_products(s.right, codes.right, a);
  }
}
template <int T, int P>
[[gnu::always_inline]] inline void add_dots(Grid<T, P>& s, const Rows16<P>& codes, const int8_t* a, int64_t stride) {
  if constexpr (T == 1) {
    add_products(s.panels, codes, four(a));
  } else {
    add_dots(s.left, codes, a, stride);
    add_dots(s.right, codes, a + T / 2 * stride, stride);
  }
}
template <int T, int P>
[[gnu::always_inline]] inline void settle(Grid<T, P>& s) {
  if constexpr (T == 1) {
    settle(s.panels);
  } else {
    settle(s.left);
    settle(s.right);
  }
}
template <int T, int P>
[[gnu::always_inline]] inline void store(const Grid<T, P>& s, __m512i* sums) {
  if constexpr (T == 1) {
    store(s.panels, sums);
  } else {
    store(s.left, sums);
    store(s.right, sums + T / 2 * P);
  }
}

// A byte a code: for every four columns the sixteen rows of one panel, then of the next.
constexpr int kQuad = 4;  // panels of a tile, whose codes stand side by side
constexpr int64_t kCodeBytes = 4 * kQuad * kPanelBlockBytes;  // of a block of each

// P vectors, `step` bytes apart.
template <int P>
[[gnu::always_inline]] inline void load(Rows16<P>& vectors, const uint8_t* p, int64_t step) {
  if constexpr (P == 1) {
    vectors.sum = _mm512_loadu_si512(p);
  } else {
    load(vectors.left, p, step);
    load(vectors.right, p + P / 2 * step, step);
  }
}
// Pair j of the bits of each byte.
template <int j, int P>
[[gnu::always_inline]] inline void take_codes(Rows16<P>& codes, const Rows16<P>& bytes) {
  if constexpr (P == 1) {
    codes.sum = _mm512_and_si512(j == 0 ? bytes.sum : _mm512_srli_epi32(bytes.sum, 2 * j), _mm512_set1_epi8(3));
  } else {
    take_codes<j>(codes.left, bytes.left);
    take_codes<j>(codes.right, bytes.right);
  }
}

// T tokens × kQuad panels, `panel_bytes` apart, from the packed bytes. The next ones come to the second-level cache meanwhile. Shifts and
// masks take time of the vector units that multiply, too: what they make is kept in `codes` for the tiles that follow.
template <int T>
void packed_tile(const uint8_t* block, int64_t panel_bytes, int64_t n_blocks, uint8_t* codes, const Tokens& x, const float* scales_w,
                 int64_t column) {
  Grid<T, kQuad> s;
  clear(s);
  fetch_outputs(x, T, kQuad, column);
  const int8_t* a = x.a;
  const uint8_t* stop = block + kPanelBlockBytes * n_blocks;
  do {
#pragma GCC unroll 4
    for (int p = 0; p < kQuad; ++p) _mm_prefetch(reinterpret_cast<const char*>(block + (kQuad + p) * panel_bytes), _MM_HINT_T1);
    Rows16<kQuad> bytes;
    load(bytes, block, panel_bytes);
    const auto add = [&]<int j>() __attribute__((always_inline)) {
      Rows16<kQuad> four;
      take_codes<j>(four, bytes);
      store(four, reinterpret_cast<__m512i*>(codes + kCodeBytes / 4 * j));
      add_dots(s, four, a + 4 * j, x.a_stride);
    };
    add.template operator()<0>();
    add.template operator()<1>();
    add.template operator()<2>();
    add.template operator()<3>();
    settle(s);
    block += kPanelBlockBytes;
    codes += kCodeBytes;
    a += kPanelDepth;
  } while (block < stop);
  __m512i sums[T * kQuad];
  store(s, sums);
  finish(sums, T, kQuad, x, scales_w, column);
}

// T tokens × kQuad panels from their codes.
template <int T>
void codes_tile(const uint8_t* codes, int64_t n_blocks, const Tokens& x, const float* scales_w, int64_t column) {
  Grid<T, kQuad> s;
  clear(s);
  fetch_outputs(x, T, kQuad, column);
  const int8_t* a = x.a;
  const uint8_t* stop = codes + kCodeBytes * n_blocks;
  do {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      Rows16<kQuad> four;
      load(four, codes + kCodeBytes / 4 * j, kPanelBlockBytes);
      add_dots(s, four, a + 4 * j, x.a_stride);
    }
    settle(s);
    codes += kCodeBytes / 2;
    a += kPanelDepth / 2;
  } while (codes < stop);
  __m512i sums[T * kQuad];
  store(s, sums);
  finish(sums, T, kQuad, x, scales_w, column);
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
  for (int64_t p = begin; p < end; ++p) panel_in_place<1, true>(panels.panel(p), panels.n_blocks, x, panels.scales + p, kPanelRows * p);
  count_linear(call, panels, begin, end, work);
}

// Activations of so many tokens, or of so many bytes, stay in the second-level cache beside the codes while a range's panels pass.
// 24 sums leave 8 registers: a tile is at most 12 tokens of one panel, which reads the fewest bytes, or 6 × 4, the fewest times. Where
// codes are read again and again the latter is better: who shares a core takes loads before products.
constexpr int64_t kTokens = 132, kTokenBytes = 1 << 19;
constexpr int64_t kTile = 12, kTileOfFour = 6;

using Tile = void (*)(const uint8_t*, int64_t, const Tokens&, const float*, int64_t);
using PackedTile = void (*)(const uint8_t*, int64_t, int64_t, uint8_t*, const Tokens&, const float*, int64_t);
template <bool kIsBeside>
constexpr Tile kSingle[] = {panel_in_place<1, kIsBeside>,  panel_in_place<2, kIsBeside>,  panel_in_place<3, kIsBeside>,
                            panel_in_place<4, kIsBeside>,  panel_in_place<5, kIsBeside>,  panel_in_place<6, kIsBeside>,
                            panel_in_place<7, kIsBeside>,  panel_in_place<8, kIsBeside>,  panel_in_place<9, kIsBeside>,
                            panel_in_place<10, kIsBeside>, panel_in_place<11, kIsBeside>, panel_in_place<12, kIsBeside>};
constexpr int64_t kLeastOfFour = 4;
constexpr PackedTile kFour[] = {packed_tile<4>, packed_tile<5>, packed_tile<6>};
constexpr Tile kFourOfCodes[] = {codes_tile<4>, codes_tile<5>, codes_tile<6>};

// All tokens × 1 or kQuad panels side by side. Tiles are of nearly equal size, so none of several has fewer than 6 tokens, or 4.
void multiply(const Panels& panels, int64_t p, int64_t n_panels, uint8_t* codes, int64_t n, const Tokens& x) {
  const int64_t most = n_panels == kQuad ? kTileOfFour : kTile, n_tiles = (n + most - 1) / most, column = kPanelRows * p;
  const uint8_t* panel = panels.panel(p);
  const float* scales = panels.scales + p;
  for (int64_t i = 0; i < n_tiles; ++i) {
    const int64_t t = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - t;
    if (n_panels == 1) {
      kSingle<false>[width - 1](panel, panels.n_blocks, x.at(t), scales, column);
    } else if (i == 0) {
      kFour[width - kLeastOfFour](panel, panels.bytes, panels.n_blocks, codes, x.at(t), scales, column);
    } else {
      kFourOfCodes[width - kLeastOfFour](codes, panels.n_blocks, x.at(t), scales, column);
    }
  }
}

// Few tokens, at most a tile: memory or the instructions that can be issued bound the speed. Their activations stand side by side in
// `beside`, and each panel is one stream.
void multiply_few(const Panels& panels, int64_t begin, int64_t end, int8_t* beside, int64_t n, Tokens x) {
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t b = 0; b < panels.n_blocks; ++b) {
      const auto* a = reinterpret_cast<const __m128i*>(x.a + t * x.a_stride + kPanelDepth * b);
      _mm_store_si128(reinterpret_cast<__m128i*>(beside + (b * n + t) * kPanelDepth), _mm_loadu_si128(a));
    }
  }
  x.a = beside;
  for (int64_t p = begin; p < end; ++p) kSingle<true>[n - 1](panels.panel(p), panels.n_blocks, x, panels.scales + p, kPanelRows * p);
}

// Several tokens. Panels come from memory once if the range's bytes fit the cache, else once for every chunk of tokens.
KERNEL_FUNCTION(i2s_gemm) {
  const Panels panels(call.weights[0]);
  const int64_t room = call.scratch_floats * static_cast<int64_t>(sizeof(float)), depth = kPanelDepth * panels.n_blocks;
  const bool has_room = panels.n_blocks * kCodeBytes <= room;
  const int64_t near = std::clamp(kTokenBytes / depth / kTile * kTile, 4 * kTile, kTokens);
  const int64_t n_chunks = (call.t + near - 1) / near;
  for (int64_t c = 0; c < n_chunks; ++c) {
    const int64_t first = tile_start(c, call.t, n_chunks), n = tile_start(c + 1, call.t, n_chunks) - first;
    int32_t totals[kTokens];
    const Tokens x = tokens_of(call, first, n, panels.n_blocks, totals);
    if (n <= kTile && n * depth <= room) {
      multiply_few(panels, begin, end, reinterpret_cast<int8_t*>(call.scratch), n, x);
      continue;
    }
    for (int64_t p = begin, n_panels; p < end; p += n_panels) {
      n_panels = n > kTile && has_room && p + kQuad <= end ? kQuad : 1;
      multiply(panels, p, n_panels, reinterpret_cast<uint8_t*>(call.scratch), n, x);
    }
  }
  count_linear(call, panels, begin, end, work);
}

// A group of a panel × T tokens.
template <int T>
void group_tile(const uint8_t* codes, const int8_t* a, int64_t stride, int32_t* sums) {
  dots_in_place<T>(codes, ScaledPanels::kBlocks, a, stride, kPanelDepth, reinterpret_cast<__m512i*>(sums));
}
constexpr GroupTile kGroupTiles[] = {group_tile<1>, group_tile<2>, group_tile<3>, group_tile<4>,  group_tile<5>,  group_tile<6>,
                                     group_tile<7>, group_tile<8>, group_tile<9>, group_tile<10>, group_tile<11>, group_tile<12>};

inline int32_t group_total(const int8_t* a) { return sum_of(a, ScaledPanels::kBlocks); }

KERNEL_FUNCTION(i2s_groups_gemv) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }
KERNEL_FUNCTION(i2s_groups_gemm) { linear_groups(call, begin, end, kGroupTiles, kTile, group_total, work); }

}  // namespace
}  // namespace tritium
