// rope_kv: rotate queries and keys by their position, append keys and values to the cache.
#pragma once

#include "generic/cache.h"
#include "generic/norm.h"
#include "generic/padding.h"
#include "kernel.h"

namespace tritium {
namespace {

constexpr int64_t kMaxHeadDim = 256;

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

// Round d values to f16, element i to cache[i·step]. False if one overflows or is not finite.
inline bool append(const float* x, int64_t d, uint16_t* cache, int64_t step, float*) {
  uint16_t half[kMaxHeadDim];
  for (int64_t i = 0; i < d; i += 16) to_f16(half + i, load_first(x + i, d - i < 16 ? d - i : 16));
  bool finite = true;
  for (int64_t i = 0; i < d; ++i) {
    cache[i * step] = half[i];
    finite = finite && (half[i] & 0x7C00u) != 0x7C00u;
  }
  return finite;
}

// The same as int8 codes with a scale. False if a value is not finite.
inline bool append(const float* x, int64_t d, int8_t* cache, int64_t step, float* scale) {
  int8_t codes[kMaxHeadDim + 64];
  const auto value = [=](int64_t i) __attribute__((always_inline)) { return load_first(x + i, d - i < 16 ? d - i : 16); };
  if (!quantize_row(value, d, codes, scale)) return false;
  for (int64_t i = 0; i < d; ++i) cache[i * step] = codes[i];
  return true;
}

// Reads a row of each table a token.
template <class Element>
inline void rotate_and_append(const Call& call, int64_t begin, int64_t end, Work& work) {
  const int64_t n_heads = call.ints[1], n_kv_heads = call.ints[2], d = call.ints[3];
  const auto rotate = call.ints[4] != 0 ? rotate_interleaved : rotate_half;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t position = call.batch.positions[r];
    const float* cos = reinterpret_cast<const float*>(call.weights[0].data) + position * (d / 2);
    const float* sin = reinterpret_cast<const float*>(call.weights[1].data) + position * (d / 2);
    for (int64_t h = 0; h < n_heads; ++h) {
      rotate(call.in[0].row<const float>(r) + h * d, call.out[0].row<float>(r) + h * d, cos, sin, d);
    }
    zero_padding(call.out[0].row<float>(r), n_heads * d);
    const int32_t* blocks = call.batch.block_tables + call.batch.slots[r] * call.batch.table_width;
    for (int64_t g = 0; g < n_kv_heads; ++g) {
      float key[kMaxHeadDim];
      rotate(call.in[1].row<const float>(r) + g * d, key, cos, sin, d);
      const Cache<Element> cache(call, blocks, n_kv_heads, g, d);
      const bool key_fits = append(key, d, cache.key(position), cache.block_size, cache.scale(call.kv.keys, position));
      const float* value = call.in[2].row<const float>(r) + g * d;
      const bool value_fits = append(value, d, cache.value(position), 1, cache.scale(call.kv.values, position));
      if (!key_fits || !value_fits) work.fail(Error::kv_overflow, r);
    }
    work.bytes += static_cast<uint64_t>(4 * d);
  }
}

KERNEL_FUNCTION(rope_apply) { rotate_and_append<uint16_t>(call, begin, end, work); }
KERNEL_FUNCTION(rope_apply_int8) { rotate_and_append<int8_t>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
