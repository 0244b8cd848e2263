// rope_kv: rotate queries and keys by their position, append keys and values to the cache.
#pragma once

#include "generic/cache.h"
#include "generic/norm.h"
#include "generic/padding.h"
#include "kernel.h"

namespace tritium {
namespace {

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kRun = 16;  // positions whose keys are written together

// y0 = x0·cos − x1·sin, y1 = x1·cos + x0·sin over pairs (i, i + d/2). y may be x.
inline void rotate_half(const float* x, float* y, const float* c, const float* s, int64_t d) {
  const int64_t half = d / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i < 16 ? half - i : 16;
    const lanes x0 = load_first(x + i, n), x1 = load_first(x + half + i, n);
    const lanes cos = load_first(c + i, n), sin = load_first(s + i, n);
    store_first(y + i, x0 * cos - x1 * sin, n);
    store_first(y + half + i, x1 * cos + x0 * sin, n);
  }
}

// The same over pairs (2i, 2i + 1).
inline void rotate_interleaved(const float* x, float* y, const float* c, const float* s, int64_t d) {
  for (int64_t i = 0; i < d / 2; ++i) {
    const float x0 = x[2 * i], x1 = x[2 * i + 1];
    y[2 * i] = x0 * c[i] - x1 * s[i];
    y[2 * i + 1] = x1 * c[i] + x0 * s[i];
  }
}

// Round d values to f16. False if one overflows, as 65520 and what is above do, or is not finite.
inline bool encode(const float* x, int64_t d, uint16_t* out, float*) {
  constexpr uint32_t kLeastInfinite = 0x477FF000u;  // 65520
  magnitude m = no_magnitude();
  for (int64_t i = 0; i < d; i += 16) {
    const lanes v = load_first(x + i, d - i < 16 ? d - i : 16);
    m = raise(m, v);
    to_f16(out + i, v);
  }
  return greatest(m) < kLeastInfinite;
}

// The same as int8 codes with a scale. False if a value is not finite.
inline bool encode(const float* x, int64_t d, int8_t* out, float* scale) {
  const auto value = [=](int64_t i) __attribute__((always_inline)) { return load_first(x + i, d - i < 16 ? d - i : 16); };
  return quantize_row(value, d, out, scale);
}

// How many rows from r on, of at most kRun, follow each other in one block of one sequence.
inline int64_t run_length(const Call& call, int64_t r, int64_t end) {
  const BatchView& batch = call.batch;
  const int64_t left = call.kv_block - batch.positions[r] % call.kv_block;
  int64_t most = end - r < kRun ? end - r : kRun, n = 1;
  if (left < most) most = left;
  while (n < most && batch.slots[r + n] == batch.slots[r] && batch.positions[r + n] == batch.positions[r] + n) ++n;
  return n;
}

// Reads a row of each table a token. Keys of neighboring positions are written together: in the cache each of their elements lies in
// another line.
template <class Element>
inline void rotate_and_append(const Call& call, int64_t begin, int64_t end, Work& work) {
  const int64_t n_heads = call.ints[1], n_kv_heads = call.ints[2], d = call.ints[3];
  const auto rotate = call.ints[4] != 0 ? rotate_interleaved : rotate_half;
  for (int64_t r = begin, n; r < end; r += n) {
    n = run_length(call, r, end);
    const int64_t first = call.batch.positions[r];
    const float* cos = reinterpret_cast<const float*>(call.weights[0].data) + first * (d / 2);
    const float* sin = reinterpret_cast<const float*>(call.weights[1].data) + first * (d / 2);
    for (int64_t j = 0; j < n; ++j) {
      const float* q = call.in[0].row<const float>(r + j);
      float* y = call.out[0].row<float>(r + j);
      for (int64_t h = 0; h < n_heads; ++h) rotate(q + h * d, y + h * d, cos + j * (d / 2), sin + j * (d / 2), d);
      zero_padding(y, n_heads * d);
    }
    const int32_t* blocks = call.batch.block_tables + call.batch.slots[r] * call.batch.table_width;
    bool fits[kRun];
    for (int64_t g = 0; g < n_kv_heads; ++g) {
      const Cache<Element> cache(call, blocks, g, d);
      Element keys[kRun][kMaxHeadDim], codes[kMaxHeadDim];
      for (int64_t j = 0; j < n; ++j) {
        float key[kMaxHeadDim];
        rotate(call.in[1].row<const float>(r + j) + g * d, key, cos + j * (d / 2), sin + j * (d / 2), d);
        const bool key_fits = encode(key, d, keys[j], cache.scale(call.kv.keys, first + j));
        const float* value = call.in[2].row<const float>(r + j) + g * d;
        const bool value_fits = encode(value, d, codes, cache.scale(call.kv.values, first + j));
        std::memcpy(cache.value(first + j), codes, static_cast<size_t>(d) * sizeof(Element));
        if (g == 0) fits[j] = true;
        if (!key_fits || !value_fits) fits[j] = false;
      }
      Element* out = cache.key(first);
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < n; ++j) out[i * cache.block_size + j] = keys[j][i];
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      if (!fits[j]) work.fail(Error::kv_overflow, r + j);
    }
    work.bytes += static_cast<uint64_t>(4 * d * n);
  }
}

KERNEL_FUNCTION(rope_apply) { rotate_and_append<uint16_t>(call, begin, end, work); }
KERNEL_FUNCTION(rope_apply_int8) { rotate_and_append<int8_t>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
