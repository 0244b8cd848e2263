// AVX2 and F16C: vpmaddubsw for the integer products, two registers for sixteen lanes.
#include "generic/lanes_avx2.h"

#define TRITIUM_ROW_avx2 1
#include "generic/kernel_names.h"

#include "generic/attention.h"
#include "generic/embedding.h"
#include "generic/glu.h"
#include "generic/logits.h"
#include "generic/norm.h"
#include "generic/panels.h"
#include "generic/rope.h"
#include "generic/select.h"
#include "generic/plane_avx2.h"
#include "generic/rescore.h"

namespace tritium {
namespace {

// vpmaddubsw gives c0·a0 + c1·a1 with codes c in {0, 1, 2} and a in [−128, 127]: at least −512, at most 508. An int16 lane holds
// 64 of them, 64·−512 = −32768 exactly, and not 65. A block makes 4 additions a lane, so lanes are flushed every 16 blocks.
constexpr int64_t kFlushBlocks = 16;

inline __m256i codes_of(__m256i packed, int shift) {
  return _mm256_and_si256(_mm256_srli_epi32(packed, shift), _mm256_set1_epi8(3));
}
inline __m256i four(const int8_t* a) {
  int32_t word;
  __builtin_memcpy(&word, a, 4);
  return _mm256_set1_epi32(word);
}
inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
// Add the pairs of int16 in every lane of 32 bits.
inline __m256i flush(__m256i total, __m256i words) {
  return _mm256_add_epi32(total, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
}

// Σ a over n_blocks·16 activations. One vpmaddubsw of ones adds at most 256 in magnitude: flushed each time, it cannot overflow.
inline int32_t sum_of(const int8_t* a, int64_t n_blocks) {
  __m256i total = _mm256_setzero_si256();
  int64_t k = 0;
  for (; k + 32 <= 16 * n_blocks; k += 32) {
    total = flush(total, _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_256(a + k)));
  }
  if (k < 16 * n_blocks) {
    const __m256i last = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + k)));
    total = flush(total, _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_inserti128_si256(last, _mm_setzero_si128(), 1)));
  }
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
  return _mm_cvtsi128_si32(s) + _mm_extract_epi32(s, 1);
}

// Eight rows of one token: f32(Σ code·a − Σ a)·scale, added to what is there or not.
inline void finish(__m256i acc, int32_t total, float scale, bool accumulate, float* out) {
  const __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(acc, _mm256_set1_epi32(total))), _mm256_set1_ps(scale));
  _mm256_storeu_ps(out, accumulate ? _mm256_add_ps(_mm256_loadu_ps(out), y) : y);
}

// Tokens whose int32 sums stand on the stack at once, and the widest tile: 6 × 2 accumulators leave 4 registers.
constexpr int64_t kTokens = 96;
constexpr int64_t kTile = 6;

// int16 sums of T tokens × 16 rows, as a tree of members: gcc keeps arrays of vectors in memory.
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
// Each sum is settled in its register at once. Without it gcc delays the additions until sixteen registers do not hold what it has
// begun, and stores sums on every pass.
[[gnu::always_inline]] inline void add_settled(__m256i& sum, __m256i product) {
  sum = _mm256_add_epi16(sum, product);
  asm("" : "+x"(sum));
}
template <int T>
[[gnu::always_inline]] inline void add_products(Words<T>& s, __m256i lo, __m256i hi, const int8_t* a, int64_t stride) {
  if constexpr (T == 1) {
    const __m256i x = four(a);
    add_settled(s.lo, _mm256_maddubs_epi16(lo, x));
    add_settled(s.hi, _mm256_maddubs_epi16(hi, x));
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

// Codes go from the packed bytes to the products without a stop. At most 64 additions a lane, then one flush.
template <int T>
void tile(const uint8_t* block, int64_t n_blocks, const int8_t* a, int64_t stride, __m256i* sums) {
  Words<T> words;
  clear(words);
  const uint8_t* stop = block + kPanelBlockBytes * n_blocks;
  do {
    __builtin_prefetch(block + 2048);
    const __m256i v = load_256(block), w = load_256(block + 32);
    add_products(words, codes_of(v, 0), codes_of(w, 0), a, stride);
    add_products(words, codes_of(v, 2), codes_of(w, 2), a + 4, stride);
    add_products(words, codes_of(v, 4), codes_of(w, 4), a + 8, stride);
    add_products(words, codes_of(v, 6), codes_of(w, 6), a + 12, stride);
    a += kPanelDepth;
    block += kPanelBlockBytes;
  } while (block < stop);
  flush(words, sums);
}

using Tile = void (*)(const uint8_t*, int64_t, const int8_t*, int64_t, __m256i*);
constexpr Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

// At most 16 blocks of a panel × n tokens, added to two vectors of sums a token.
void multiply(const uint8_t* block, int64_t n_blocks, int64_t n, const int8_t* a, int64_t stride, __m256i* sums) {
  const int64_t n_tiles = (n + kTile - 1) / kTile;
  for (int64_t i = 0; i < n_tiles; ++i) {
    const int64_t t = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - t;
    kTiles[width - 1](block, n_blocks, a + t * stride, stride, sums + 2 * t);
  }
}

// The panels [begin, end) for the n ≤ kTokens tokens from `first` on.
void multiply(const Call& call, const Panels& panels, int64_t begin, int64_t end, int64_t first, int64_t n) {
  const int64_t stride = call.in[0].stride;
  const int8_t* a = call.in[0].row<const int8_t>(first);
  int32_t totals[kTokens];
  for (int64_t t = 0; t < n; ++t) totals[t] = sum_of(a + t * stride, panels.n_blocks);
  for (int64_t p = begin; p < end; ++p) {
    __m256i sums[2 * kTokens];
    for (int64_t t = 0; t < 2 * n; ++t) sums[t] = _mm256_setzero_si256();
    for (int64_t b = 0; b < panels.n_blocks; b += kFlushBlocks) {
      const int64_t n_blocks = panels.n_blocks - b < kFlushBlocks ? panels.n_blocks - b : kFlushBlocks;
      multiply(panels.panel(p) + kPanelBlockBytes * b, n_blocks, n, a + kPanelDepth * b, stride, sums);
    }
    for (int64_t t = 0; t < n; ++t) {
      const float scale = *call.in[1].row<const float>(first + t) * panels.scales[p];
      float* out = call.out[0].row<float>(first + t) + kPanelRows * p;
      finish(sums[2 * t], totals[t], scale, call.ints[4] != 0, out);
      finish(sums[2 * t + 1], totals[t], scale, call.ints[4] != 0, out + 8);
    }
  }
}

// One token: every panel of the range streams through registers, bytes are read once.
KERNEL_FUNCTION(i2s_gemv) {
  multiply(call, Panels(call.weights[0]), begin, end, 0, 1);
  count_linear(call, begin, end, work);
}

// Several tokens, 1 KB of a panel at a time, which the first tile brings into the first-level cache. Panels come from memory once if
// the range's bytes fit the cache, else once for every 96 tokens.
KERNEL_FUNCTION(i2s_gemm) {
  const Panels panels(call.weights[0]);
  const int64_t n_chunks = (call.t + kTokens - 1) / kTokens;
  for (int64_t c = 0; c < n_chunks; ++c) {
    const int64_t first = tile_start(c, call.t, n_chunks);
    multiply(call, panels, begin, end, first, tile_start(c + 1, call.t, n_chunks) - first);
  }
  count_linear(call, begin, end, work);
}

}  // namespace
}  // namespace tritium

#include "generic/kernel_table.h"
