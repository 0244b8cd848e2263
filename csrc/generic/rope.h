// rope_kv: rotate queries and keys by their position, append keys and values to the cache.
#pragma once

#include <cstring>

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
inline bool append(const float* x, int64_t d, uint16_t* cache, int64_t step) {
  uint16_t half[kMaxHeadDim];
  for (int64_t i = 0; i < d; i += 16) to_f16(half + i, load_first(x + i, d - i < 16 ? d - i : 16));
  bool finite = true;
  for (int64_t i = 0; i < d; ++i) {
    cache[i * step] = half[i];
    finite = finite && (half[i] & 0x7C00u) != 0x7C00u;
  }
  return finite;
}

// Reads a row of each table a token.
KERNEL_FUNCTION(rope_apply) {
  const int64_t n_heads = call.ints[1], n_kv_heads = call.ints[2], d = call.ints[3];
  const auto rotate = call.ints[4] != 0 ? rotate_interleaved : rotate_half;
  const int64_t block_size = call.kv_block;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t position = call.batch.positions[r];
    const float* cos = reinterpret_cast<const float*>(call.weights[0].data) + position * (d / 2);
    const float* sin = reinterpret_cast<const float*>(call.weights[1].data) + position * (d / 2);
    for (int64_t h = 0; h < n_heads; ++h) {
      rotate(call.in[0].row<const float>(r) + h * d, call.out[0].row<float>(r) + h * d, cos, sin, d);
    }
    zero_padding(call.out[0].row<float>(r), n_heads * d);
    const int32_t* blocks = call.batch.block_tables + call.batch.slots[r] * call.batch.table_width;
    const int64_t block = blocks[position / block_size], at = position % block_size;
    for (int64_t g = 0; g < n_kv_heads; ++g) {
      float key[kMaxHeadDim];
      rotate(call.in[1].row<const float>(r) + g * d, key, cos, sin, d);
      const int64_t base = (block * n_kv_heads + g) * d * block_size;
      const bool key_fits = append(key, d, call.kv.keys + base + at, block_size);
      const bool value_fits = append(call.in[2].row<const float>(r) + g * d, d, call.kv.values + base + at * d, 1);
      if (!key_fits || !value_fits) work.fail(Error::kv_overflow, r);
    }
    work.bytes += static_cast<uint64_t>(4 * d);
  }
}

}  // namespace
}  // namespace tritium
