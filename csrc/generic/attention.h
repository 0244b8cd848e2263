// attention: causal attention of one token over its sequence's cache, for the query heads of one key-value head.
#pragma once

#include "generic/exp.h"
#include "generic/padding.h"
#include "generic/sums.h"
#include "kernel.h"

namespace tritium {
namespace {

constexpr int64_t kMaxDim = 256;     // features of a head
constexpr int64_t kHeadTile = 4;     // query heads that share one conversion of keys and values

// Where a sequence's cache lies for one key-value head.
struct Cache {
  const uint16_t* keys;
  const uint16_t* values;
  const int32_t* blocks;
  int64_t n_kv_heads, kv_head, block_size, dim;

  int64_t base(int64_t position) const {
    return (blocks[position / block_size] * n_kv_heads + kv_head) * dim * block_size;
  }
};


// What one split of at most 256 keys gives each head: greatest score, Σp, Σp·v.
struct Split {
  alignas(64) float p[kHeadTile][kAttentionSplit];
  alignas(64) float out[kHeadTile][kMaxDim];
  float max[kHeadTile];
  float sum[kHeadTile];
};

// sums[h] += x[h·step]·a
template <int N>
[[gnu::always_inline]] inline void add_products(Sums<N>& s, const float* x, int64_t step, const lanes& a) {
  s.first = s.first + splat(*x) * a;
  if constexpr (N > 1) add_products(s.rest, x + step, step, a);
}
template <int N>
[[gnu::always_inline]] inline void store_scaled(const Sums<N>& s, float* y, int64_t step, const lanes& scale) {
  store(y, s.first * scale);
  if constexpr (N > 1) store_scaled(s.rest, y + step, step, scale);
}
template <int N>
[[gnu::always_inline]] inline void store_sums(const Sums<N>& s, float* y, int64_t step) {
  store(y, s.first);
  if constexpr (N > 1) store_sums(s.rest, y + step, step);
}

// Scores of sixteen keys: (Σ_i q_i·k_i)·inv_sqrt, i ascending.
template <int N>
inline void score_keys(const Cache& cache, const float* q, int64_t position, const lanes& inv_sqrt, float* scores) {
  const uint16_t* keys = cache.keys + cache.base(position) + position % cache.block_size;
  Sums<N> s;
  clear(s);
  for (int64_t i = 0; i < cache.dim; ++i) add_products(s, q + i, cache.dim, from_f16(keys + i * cache.block_size));
  store_scaled(s, scores, kAttentionSplit, inv_sqrt);
}

// Sixteen features (n at the border) of Σ_j p_j·v_j, j ascending over the n_keys keys from `start`.
template <int N>
inline void mix_values(const Cache& cache, const Split& split, int64_t start, int64_t n_keys, int64_t i, float* out) {
  const int64_t n = cache.dim - i;
  Sums<N> s;
  clear(s);
  for (int64_t j = 0; j < n_keys;) {
    const int64_t position = start + j;
    const int64_t left = n_keys - j < cache.block_size ? n_keys - j : cache.block_size;
    const uint16_t* values = cache.values + cache.base(position) + i;
    if (n >= 16) {
      for (int64_t b = 0; b < left; ++b) {
        add_products(s, split.p[0] + j + b, kAttentionSplit, from_f16(values + b * cache.dim));
      }
    } else {
      for (int64_t b = 0; b < left; ++b) {
        add_products(s, split.p[0] + j + b, kAttentionSplit, from_f16_first(values + b * cache.dim, n));
      }
    }
    j += left;
  }
  store_sums(s, out, kMaxDim);
}

// p = exp(s − max s) in place, its lane sum and the maximum. Lanes past n_keys hold garbage: they are left out of both.
inline void soften(Split& split, int64_t h, int64_t n_keys) {
  float* p = split.p[h];
  lanes top = splat(-__builtin_inff());
  for (int64_t j = 0; j < n_keys; j += 16) {
    const lanes s = load(p + j);
    top = max(top, n_keys - j < 16 ? keep_first(s, n_keys - j, -__builtin_inff()) : s);
  }
  float each[16];
  store(each, top);
  float greatest_score = each[0];
  for (int l = 1; l < 16; ++l) greatest_score = each[l] > greatest_score ? each[l] : greatest_score;
  lanes sum = splat(0.0f);
  for (int64_t j = 0; j < n_keys; j += 16) {
    lanes e = exp(load(p + j) - splat(greatest_score));
    if (n_keys - j < 16) e = keep_first(e, n_keys - j, 0.0f);
    store(p + j, e);
    sum = sum + e;
  }
  split.max[h] = greatest_score;
  split.sum[h] = tree_sum(sum);
}

template <int N>
inline void attend_split(const Cache& cache, const float* q, int64_t start, int64_t n_keys, Split& split) {
  const lanes inv_sqrt = splat(1.0f / __builtin_sqrtf(static_cast<float>(cache.dim)));
  for (int64_t j = 0; j < n_keys; j += 16) score_keys<N>(cache, q, start + j, inv_sqrt, split.p[0] + j);
  for (int64_t h = 0; h < N; ++h) soften(split, h, n_keys);
  for (int64_t i = 0; i < cache.dim; i += 16) mix_values<N>(cache, split, start, n_keys, i, split.out[0] + i);
}

// Fold a split into what the earlier ones gave: M' = max(M, m), a = exp(M − M'), b = exp(m − M'), L = a·L + b·l, O = a·O + b·o.
inline void merge(Split& total, const Split& next, int64_t h, int64_t dim) {
  const float top = total.max[h] > next.max[h] ? total.max[h] : next.max[h];
  const float a = exp(total.max[h] - top), b = exp(next.max[h] - top);
  total.sum[h] = a * total.sum[h] + b * next.sum[h];
  for (int64_t i = 0; i < dim; i += 16) {
    store(total.out[h] + i, splat(a) * load(total.out[h] + i) + splat(b) * load(next.out[h] + i));
  }
  total.max[h] = top;
}

template <int N>
inline void attend_heads(const Cache& cache, const float* q, int64_t kv_len, float* y) {
  Split total, next;
  for (int64_t start = 0; start < kv_len; start += kAttentionSplit) {
    const int64_t n_keys = kv_len - start < kAttentionSplit ? kv_len - start : kAttentionSplit;
    attend_split<N>(cache, q, start, n_keys, start == 0 ? total : next);
    for (int64_t h = 0; start != 0 && h < N; ++h) merge(total, next, h, cache.dim);
  }
  for (int64_t h = 0; h < N; ++h) {
    for (int64_t i = 0; i < cache.dim; i += 16) {
      const int64_t n = cache.dim - i;
      store_first(y + h * cache.dim + i, load(total.out[h] + i) / splat(total.sum[h]), n < 16 ? n : 16);
    }
  }
}

// Scores are |s| ≤ d·|q|·65504 in float32: an overflow gives NaN, which the next quantization reports. Reads the keys and values
// of positions 0 … the row's, once.
KERNEL_FUNCTION(attention_real) {
  const int64_t n_heads = call.ints[1], n_kv_heads = call.ints[2], dim = call.ints[3];
  const int64_t group = n_heads / n_kv_heads;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t r = unit / n_kv_heads, g = unit % n_kv_heads;
    const int64_t kv_len = call.batch.positions[r] + 1;
    const int32_t* blocks = call.batch.block_tables + call.batch.slots[r] * call.batch.table_width;
    const Cache cache{call.kv.keys, call.kv.values, blocks, n_kv_heads, g, call.kv_block, dim};
    const float* q = call.in[0].row<const float>(r) + g * group * dim;
    float* y = call.out[0].row<float>(r) + g * group * dim;
    for (int64_t h = 0; h < group; h += kHeadTile) {
      switch (group - h) {
        case 1: attend_heads<1>(cache, q + h * dim, kv_len, y + h * dim); break;
        case 2: attend_heads<2>(cache, q + h * dim, kv_len, y + h * dim); break;
        case 3: attend_heads<3>(cache, q + h * dim, kv_len, y + h * dim); break;
        default: attend_heads<4>(cache, q + h * dim, kv_len, y + h * dim); break;
      }
    }
    if (g == n_kv_heads - 1) zero_padding(call.out[0].row<float>(r), n_heads * dim);
    work.macs += static_cast<uint64_t>(2 * group * dim * kv_len);
    work.bytes += static_cast<uint64_t>(4 * dim * kv_len);
  }
}

}  // namespace
}  // namespace tritium
