// Where a sequence's keys and values of one key-value head lie, and what they are worth.
#pragma once

#include "generic/tile.h"
#include "kernel.h"

namespace tritium {
namespace {

// Element uint16_t: float16. int8_t: codes, whose block ends in its positions' float32 scales.
template <class Element>
struct Cache {
  static constexpr bool kScaled = sizeof(Element) == 1;

  uint8_t* keys;
  uint8_t* values;
  const int32_t* blocks;
  int64_t block_stride, kv_head, block_size, dim;
  float inv_sqrt;

  Cache(const Call& call, const int32_t* blocks, int64_t kv_head, int64_t dim)
      : keys(call.kv.keys), values(call.kv.values), blocks(blocks), block_stride(call.kv.block_stride), kv_head(kv_head),
        block_size(call.kv_block), dim(dim), inv_sqrt(1.0f / __builtin_sqrtf(static_cast<float>(dim))) {}

  // Bytes of one position's key or value.
  static int64_t vector_bytes(int64_t dim) { return dim * static_cast<int64_t>(sizeof(Element)) + (kScaled ? 4 : 0); }

  // Of the position's block and this head.
  int64_t base(int64_t position) const {
    return blocks[position / block_size] * block_stride + kv_head * vector_bytes(dim) * block_size;
  }
  // The position's scale in `half`, keys or values, and those of the block's later positions.
  float* scale(uint8_t* half, int64_t position) const {
    return reinterpret_cast<float*>(half + base(position) + dim * block_size) + position % block_size;
  }

  // The position's key, its elements block_size apart.
  Element* key(int64_t position) const { return reinterpret_cast<Element*>(keys + base(position)) + position % block_size; }
  Element* value(int64_t position) const {
    return reinterpret_cast<Element*>(values + base(position)) + position % block_size * dim;
  }
  // dim vectors whose elements are keys, from this position's on. Next come n more keys, and then what lies `beyond`.
  Vectors<Element> keys_at(int64_t position, const Element* ahead, int64_t n, const Element* beyond) const {
    return {key(position), block_size, ahead, beyond, dim, n, block_size};
  }
  // A vector a position. Next come those of n more.
  Vectors<Element> values_at(int64_t position, const Element* ahead, int64_t n, const Element* beyond) const {
    return {value(position), dim, ahead, beyond, n, dim, dim};
  }

  // What the sums of n keys, all of one block, are multiplied by.
  void score_scales(int64_t position, int64_t n, lanes* out) const {
    for (int64_t j = 0; j < n; j += kLanes) {
      if constexpr (kScaled) {
        out[j / kLanes] = load(scale(keys, position) + j) * splat(inv_sqrt);
      } else {
        out[j / kLanes] = splat(inv_sqrt);
      }
    }
  }
  // What weights are multiplied by from a position on, to the end of its block: nothing without scales.
  const float* value_scales(int64_t position) const {
    if constexpr (kScaled) return scale(values, position);
    return nullptr;
  }
  // What score_scales and value_scales will read of n positions of one block. Forced inline: gcc drops calls of a function that does
  // nothing but fetch.
  [[gnu::always_inline]] void fetch_scales(int64_t position, int64_t n) const {
    if constexpr (!kScaled) return;
    for (int64_t j = 0; j < n; j += 64 / static_cast<int64_t>(sizeof(float))) {
      __builtin_prefetch(scale(keys, position) + j, 0, 2);
      __builtin_prefetch(scale(values, position) + j, 0, 2);
    }
  }
};

}  // namespace
}  // namespace tritium
