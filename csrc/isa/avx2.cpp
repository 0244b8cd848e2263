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

// One token: every panel of the range streams through registers, bytes are read once.
KERNEL_FUNCTION(i2s_gemv) {
  const Panels panels(call.weights[0]);
  const int8_t* a = call.in[0].row<const int8_t>(0);
  const float scale_x = *call.in[1].row<const float>(0);
  const int32_t total = sum_of(a, panels.n_blocks);
  for (int64_t p = begin; p < end; ++p) {
    const uint8_t* block = panels.panel(p);
    __m256i lo = _mm256_setzero_si256(), hi = _mm256_setzero_si256();
    for (int64_t b = 0; b < panels.n_blocks;) {
      const int64_t stop = b + kFlushBlocks < panels.n_blocks ? b + kFlushBlocks : panels.n_blocks;
      __m256i lo16 = _mm256_setzero_si256(), hi16 = _mm256_setzero_si256();
      for (; b < stop; ++b, block += kPanelBlockBytes) {
        __builtin_prefetch(block + 2048);
        const __m256i w0 = load_256(block), w1 = load_256(block + 32);
        const int8_t* x = a + kPanelDepth * b;
        const __m256i a0 = four(x), a1 = four(x + 4), a2 = four(x + 8), a3 = four(x + 12);
        // Sums of two products of pairs are at most 1024: no closer to the bound than the running lane.
        const __m256i l01 = _mm256_add_epi16(_mm256_maddubs_epi16(codes_of(w0, 0), a0), _mm256_maddubs_epi16(codes_of(w0, 2), a1));
        const __m256i l23 = _mm256_add_epi16(_mm256_maddubs_epi16(codes_of(w0, 4), a2), _mm256_maddubs_epi16(codes_of(w0, 6), a3));
        const __m256i h01 = _mm256_add_epi16(_mm256_maddubs_epi16(codes_of(w1, 0), a0), _mm256_maddubs_epi16(codes_of(w1, 2), a1));
        const __m256i h23 = _mm256_add_epi16(_mm256_maddubs_epi16(codes_of(w1, 4), a2), _mm256_maddubs_epi16(codes_of(w1, 6), a3));
        lo16 = _mm256_add_epi16(lo16, _mm256_add_epi16(l01, l23));
        hi16 = _mm256_add_epi16(hi16, _mm256_add_epi16(h01, h23));
      }
      lo = flush(lo, lo16);
      hi = flush(hi, hi16);
    }
    const float scale = scale_x * panels.scales[p];
    float* out = call.out[0].row<float>(0) + kPanelRows * p;
    finish(lo, total, scale, call.ints[4] != 0, out);
    finish(hi, total, scale, call.ints[4] != 0, out + 8);
  }
  count_linear(call, begin, end, work);
}

// Tokens whose int32 sums stand on the stack at once, and the widest tile: 6 × 2 accumulators leave 4 registers.
constexpr int64_t kTokens = 96;
constexpr int64_t kTile = 6;

// Codes of at most 16 blocks of a panel, one byte each: vector 2j + h of a block holds k = 4j … 4j + 3 of rows 8h … 8h + 7.
struct Codes {
  alignas(32) uint8_t bytes[kFlushBlocks * 256];
};
inline void unpack(const uint8_t* block, int64_t n_blocks, Codes& codes) {
  __m256i* out = reinterpret_cast<__m256i*>(codes.bytes);
  for (int64_t b = 0; b < n_blocks; ++b, block += kPanelBlockBytes, out += 8) {
    const __m256i w0 = load_256(block), w1 = load_256(block + 32);
    out[0] = codes_of(w0, 0);
    out[1] = codes_of(w1, 0);
    out[2] = codes_of(w0, 2);
    out[3] = codes_of(w1, 2);
    out[4] = codes_of(w0, 4);
    out[5] = codes_of(w1, 4);
    out[6] = codes_of(w0, 6);
    out[7] = codes_of(w1, 6);
  }
}

// int16 sums of T tokens × 16 rows, as a chain of members: gcc keeps arrays of vectors in memory.
template <int T>
struct Words {
  __m256i lo, hi;
  Words<T - 1> rest;
};
template <>
struct Words<0> {};

template <int T>
[[gnu::always_inline]] inline void clear(Words<T>& s) {
  s.lo = s.hi = _mm256_setzero_si256();
  if constexpr (T > 1) clear(s.rest);
}
template <int T>
[[gnu::always_inline]] inline void add_products(Words<T>& s, __m256i lo, __m256i hi, const int8_t* a, int64_t stride) {
  const __m256i x = four(a);
  s.lo = _mm256_add_epi16(s.lo, _mm256_maddubs_epi16(lo, x));
  s.hi = _mm256_add_epi16(s.hi, _mm256_maddubs_epi16(hi, x));
  if constexpr (T > 1) add_products(s.rest, lo, hi, a + stride, stride);
}
template <int T>
[[gnu::always_inline]] inline void flush(const Words<T>& s, __m256i* sums) {
  sums[0] = flush(sums[0], s.lo);
  sums[1] = flush(sums[1], s.hi);
  if constexpr (T > 1) flush(s.rest, sums + 2);
}

// At most 64 additions a lane, then one flush.
template <int T>
void tile(const Codes& codes, int64_t n_blocks, const int8_t* a, int64_t stride, __m256i* sums) {
  Words<T> words;
  clear(words);
  const uint8_t* c = codes.bytes;
  for (const int8_t* stop = a + kPanelDepth * n_blocks; a < stop; a += 4, c += 64) {
    add_products(words, load_256(c), load_256(c + 32), a, stride);
  }
  flush(words, sums);
}

void any_tile(int64_t t, const Codes& codes, int64_t n_blocks, const int8_t* a, int64_t stride, __m256i* sums) {
  switch (t) {
    case 1: return tile<1>(codes, n_blocks, a, stride, sums);
    case 2: return tile<2>(codes, n_blocks, a, stride, sums);
    case 3: return tile<3>(codes, n_blocks, a, stride, sums);
    case 4: return tile<4>(codes, n_blocks, a, stride, sums);
    case 5: return tile<5>(codes, n_blocks, a, stride, sums);
    default: return tile<6>(codes, n_blocks, a, stride, sums);
  }
}

// Several tokens: 256 k of a panel are unpacked once for up to 96 tokens. Panels come from memory once if the range's bytes fit
// the cache, else once for every 96 tokens.
KERNEL_FUNCTION(i2s_gemm) {
  const Panels panels(call.weights[0]);
  const int64_t stride = call.in[0].stride;
  for (int64_t t0 = 0; t0 < call.t; t0 += kTokens) {
    const int64_t n = call.t - t0 < kTokens ? call.t - t0 : kTokens;
    const int64_t n_tiles = (n + kTile - 1) / kTile;
    const int8_t* a = call.in[0].row<const int8_t>(t0);
    int32_t totals[kTokens];
    for (int64_t t = 0; t < n; ++t) totals[t] = sum_of(a + t * stride, panels.n_blocks);
    for (int64_t p = begin; p < end; ++p) {
      __m256i sums[2 * kTokens];
      for (int64_t t = 0; t < 2 * n; ++t) sums[t] = _mm256_setzero_si256();
      for (int64_t b = 0; b < panels.n_blocks; b += kFlushBlocks) {
        const int64_t n_blocks = panels.n_blocks - b < kFlushBlocks ? panels.n_blocks - b : kFlushBlocks;
        Codes codes;
        unpack(panels.panel(p) + kPanelBlockBytes * b, n_blocks, codes);
        for (int64_t i = 0; i < n_tiles; ++i) {
          const int64_t t = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - t;
          any_tile(width, codes, n_blocks, a + t * stride + kPanelDepth * b, stride, sums + 2 * t);
        }
      }
      for (int64_t t = 0; t < n; ++t) {
        const float scale = *call.in[1].row<const float>(t0 + t) * panels.scales[p];
        float* out = call.out[0].row<float>(t0 + t) + kPanelRows * p;
        finish(sums[2 * t], totals[t], scale, call.ints[4] != 0, out);
        finish(sums[2 * t + 1], totals[t], scale, call.ints[4] != 0, out + 8);
      }
    }
  }
  count_linear(call, begin, end, work);
}

}  // namespace
}  // namespace tritium

#include "generic/kernel_table.h"
