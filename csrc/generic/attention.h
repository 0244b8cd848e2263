// attention: causal attention of tokens over their sequence's cache, for the query heads of one key-value head.
#pragma once

#include "generic/cache.h"
#include "generic/exp.h"
#include "generic/padding.h"
#include "generic/tile.h"

namespace tritium {
namespace {

constexpr int kHeadTile = 4;       // query heads that share a load of keys and values
constexpr int kSoftened = 2;       // vectors of a head's scores that become weights together
constexpr int64_t kPiece = 64;     // most keys that stand side by side in scratch as float32

// What one split of at most 256 keys gives each head: Σp·v, greatest score, Σp.
struct Part {
  float* out;
  float* max;
  float* sum;
};

// One token's query heads (at most kHeadTile of one key-value head), and where their attention is worked out.
struct Row {
  const float* q;
  float* y;        // where the heads' outputs will be written
  int64_t n_keys;  // of the split at hand
  float* p;        // [heads][kAttentionSplit]
  Part part;
};

// Inputs of the row behind this one, and outputs, come while this one's products are formed: they lie in short pieces, which no
// processor foresees. Forced inline: gcc drops calls of a function that does nothing but fetch.
[[gnu::always_inline]] inline void fetch_inputs(const float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) __builtin_prefetch(p + i);
}
[[gnu::always_inline]] inline void fetch_outputs(const float* p, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) __builtin_prefetch(p + i, 1, 2);
}

inline int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t part_floats(int64_t n_heads, int64_t dim) { return padded(n_heads * (padded(dim) + 2)); }

// The parts of heads h, h + 1, … of n_heads that share a place.
inline Part part_at(float* place, int64_t n_heads, int64_t dim, int64_t h) {
  float* max = place + n_heads * padded(dim);
  return {place + h * padded(dim), max + h, max + n_heads + h};
}

// Vectors of a tile with N heads.
template <int N>
constexpr int kWidth = kAccumulators / N < 1 ? 1 : kAccumulators / N > 4 ? 4 : kAccumulators / N;

// Scores of `n` keys side by side: (Σ_i q_i·k_i)·scale, i ascending.
template <int N, int C, class Element>
[[gnu::always_inline]] inline void score_tile(const Row& row, const Vectors<Element>& keys, int64_t dim, int64_t j, const lanes* scales) {
  SumTile<N, C> sums;
  clear(sums);
  add_products(sums, row.q, dim, keys, dim);
  store_scaled(sums, row.p + j, kAttentionSplit, scales);
}

template <int N, class Element>
inline void score_keys(const Row& row, Vectors<Element> keys, int64_t dim, int64_t j, int64_t n, const lanes* scales) {
  constexpr int kStep = kLanes * kWidth<N>;
  int64_t at = 0;
  for (; at + kStep <= padded(n); at += kStep) score_tile<N, kWidth<N>>(row, keys.from(at), dim, j + at, scales + at / kLanes);
  if constexpr (kWidth<N> > 2) {
    for (; at + 2 * kLanes <= padded(n); at += 2 * kLanes) score_tile<N, 2>(row, keys.from(at), dim, j + at, scales + at / kLanes);
  }
  for (; at < n; at += kLanes) score_tile<N, 1>(row, keys.from(at), dim, j + at, scales + at / kLanes);
}

// Σ_j p_j·v_j over n further keys from j on, j ascending.
template <int N, int C, class Element>
[[gnu::always_inline]] inline void mix_tile(const Row& row, const Vectors<Element>& values, int64_t step, int64_t j, int64_t n, int64_t i) {
  SumTile<N, C> sums;
  if (j == 0) {
    clear(sums);
  } else {
    load_sums(sums, row.part.out + i, step);
  }
  add_products(sums, row.p + j, kAttentionSplit, values, n);
  store_sums(sums, row.part.out + i, step);
}

template <int N, class Element>
inline void mix_values(const Row& row, Vectors<Element> values, int64_t dim, int64_t j, int64_t n) {
  constexpr int kStep = kLanes * kWidth<N>;
  const int64_t width = padded(dim);
  int64_t i = 0;
  for (; i + kStep <= width; i += kStep) mix_tile<N, kWidth<N>>(row, values.tile(i, kStep, n), width, j, n, i);
  for (; i < width; i += kLanes) mix_tile<N, 1>(row, values.tile(i, kLanes, n), width, j, n, i);
}

// The greatest scores of each head in lanes.
template <int N>
[[gnu::always_inline]] inline void raise_tops(Sums<N>& tops, const float* p) {
  tops.first = max(tops.first, load(p));
  if constexpr (N > 1) raise_tops(tops.rest, p + kAttentionSplit);
}
template <int N>
[[gnu::always_inline]] inline void fold_tops(Sums<N>& tops, float* greatest) {
  float each[kLanes];
  store(each, tops.first);
  *greatest = each[0];
  for (int l = 1; l < kLanes; ++l) *greatest = each[l] > *greatest ? each[l] : *greatest;
  tops.first = splat(*greatest);
  if constexpr (N > 1) fold_tops(tops.rest, greatest + 1);
}
// e^(s − top) of C vectors of scores a head, added to each head's sum and weighed with the values' scales, where they have them.
template <int C>
[[gnu::always_inline]] inline void lower(Sums<C>& s, const lanes& top) {
  s.first = s.first - top;
  if constexpr (C > 1) lower(s.rest, top);
}
template <int N, int C>
[[gnu::always_inline]] inline void lower(SumTile<N, C>& s, const Sums<N>& tops) {
  lower(s.first, tops.first);
  if constexpr (N > 1) lower(s.rest, tops.rest);
}
template <int C>
[[gnu::always_inline]] inline void add_up(lanes& sum, const Sums<C>& e) {
  sum = sum + e.first;
  if constexpr (C > 1) add_up(sum, e.rest);
}
template <int N, int C>
[[gnu::always_inline]] inline void add_up(Sums<N>& sums, const SumTile<N, C>& e) {
  add_up(sums.first, e.first);
  if constexpr (N > 1) add_up(sums.rest, e.rest);
}
template <int C, int N>
[[gnu::always_inline]] inline void soften(Sums<N>& sums, const Sums<N>& tops, float* p, const float* scales) {
  SumTile<N, C> e;
  load_sums(e, p, kAttentionSplit);
  lower(e, tops);
  exp_each(e);
  add_up(sums, e);
  if (scales == nullptr) {
    store_sums(e, p, kAttentionSplit);
    return;
  }
  lanes by[C];
  for (int c = 0; c < C; ++c) by[c] = load(scales + c * kLanes);
  store_scaled(e, p, kAttentionSplit, by);
}
template <int N>
[[gnu::always_inline]] inline void fold_sums(const Sums<N>& sums, float* totals) {
  *totals = tree_sum(sums.first);
  if constexpr (N > 1) fold_sums(sums.rest, totals + 1);
}

// Scores become weights: p = exp(s − max s) in place, lane sum and maximum kept. What stands past n_keys in the last lanes is no
// score: −∞ there gives the weight 0, beside a greatest score that is a number.
template <int N, class Element>
inline void soften(const Cache<Element>& cache, const Row& row, int64_t start) {
  const int64_t whole = row.n_keys / kLanes * kLanes;
  if (whole < row.n_keys) {
    for (float* p = row.p + whole; p < row.p + N * kAttentionSplit; p += kAttentionSplit) {
      store(p, keep_first(load(p), row.n_keys - whole, -__builtin_inff()));
    }
  }
  Sums<N> tops, sums;
  clear(sums);
  fill(tops, -__builtin_inff());
  for (int64_t j = 0; j < row.n_keys; j += kLanes) raise_tops(tops, row.p + j);
  fold_tops(tops, row.part.max);
  for (int64_t j = 0; j < row.n_keys; j += cache.block_size) {
    const float* scales = cache.value_scales(start + j);
    const int64_t n = padded(least(cache.block_size, row.n_keys - j));
    int64_t i = 0;
    for (; i + kSoftened * kLanes <= n; i += kSoftened * kLanes) {
      soften<kSoftened>(sums, tops, row.p + j + i, Cache<Element>::kScaled ? scales + i : nullptr);
    }
    for (; i < n; i += kLanes) soften<1>(sums, tops, row.p + j + i, Cache<Element>::kScaled ? scales + i : nullptr);
  }
  fold_sums(sums, row.part.sum);
}

// Attention of each row over the split that begins at `start`. Several rows share one conversion to float32, into `stage`. Positions
// from `end` on are not there: behind the last one `after` is read.
template <int N, class Element>
inline void attend_split(const Cache<Element>& cache, const Row* rows, int64_t n_rows, int64_t start, int64_t end, const Element* after,
                         float* stage) {
  const int64_t dim = cache.dim, piece = least(kPiece, cache.block_size);
  int64_t n_keys = 0;
  for (int64_t r = 0; r < n_rows; ++r) n_keys = rows[r].n_keys > n_keys ? rows[r].n_keys : n_keys;
  for (int64_t j = 0; j < n_keys; j += piece) {
    const int64_t next = start + j + piece;
    const Element* values = cache.value(start);
    const Vectors<Element> keys = cache.keys_at(start + j, j + piece < n_keys ? cache.key(next) : values, n_keys - j - piece, values);
    cache.fetch_scales(j + piece < n_keys ? next : start, piece);
    lanes scales[kPiece / kLanes];
    cache.score_scales(start + j, least(piece, n_keys - j), scales);
    if (n_rows == 1) {
      score_keys<N>(rows[0], keys, dim, j, least(piece, n_keys - j), scales);
      continue;
    }
    const Vectors<float> staged = convert(keys, dim, piece, stage);
    for (int64_t r = 0; r < n_rows; ++r) {
      if (j == 0 && r + 1 < n_rows) fetch_inputs(rows[r + 1].q, N * dim);
      if (rows[r].n_keys > j) score_keys<N>(rows[r], staged, dim, j, least(piece, rows[r].n_keys - j), scales);
    }
  }
  for (int64_t r = 0; r < n_rows; ++r) {
    if (rows[r].n_keys > 0) soften<N>(cache, rows[r], start);
  }
  const Element* behind = start + n_keys < end ? cache.key(start + n_keys) : after;
  for (int64_t j = 0; j < n_keys; j += piece) {
    const int64_t next = start + j + piece;
    const Vectors<Element> values =
        cache.values_at(start + j, j + piece < n_keys ? cache.value(next) : behind, n_keys - j - piece, behind);
    if (j == 0 && start + kAttentionSplit < end) cache.fetch_scales(start + kAttentionSplit, piece);
    if (n_rows == 1) {
      mix_values<N>(rows[0], values, dim, j, least(piece, n_keys - j));
      continue;
    }
    const Vectors<float> staged = convert(values, least(piece, n_keys - j), dim, stage);
    for (int64_t r = 0; r < n_rows; ++r) {
      if (j == 0) fetch_outputs(rows[r].y, N * dim);
      if (rows[r].n_keys > j) mix_values<N>(rows[r], staged, dim, j, least(piece, rows[r].n_keys - j));
    }
  }
}

// Fold a split into what the earlier ones gave: M' = max(M, m), a = exp(M − M'), b = exp(m − M'), L = a·L + b·l, O = a·O + b·o.
inline void merge(const Part& total, const Part& next, int64_t n_heads, int64_t dim) {
  for (int64_t h = 0; h < n_heads; h += kLanes) {
    const int64_t n = least(n_heads - h, kLanes);
    const lanes old = load_first(total.max + h, n), more = load_first(next.max + h, n), top = max(old, more);
    const lanes a = exp(old - top), b = exp(more - top);
    store_first(total.sum + h, a * load_first(total.sum + h, n) + b * load_first(next.sum + h, n), n);
    store_first(total.max + h, top, n);
    float as[kLanes], bs[kLanes];
    store(as, a);
    store(bs, b);
    for (int64_t l = 0; l < n; ++l) {
      float* out = total.out + (h + l) * padded(dim);
      const float* other = next.out + (h + l) * padded(dim);
      for (int64_t i = 0; i < dim; i += kLanes) store(out + i, splat(as[l]) * load(out + i) + splat(bs[l]) * load(other + i));
    }
  }
}

inline void divide(const Part& total, int64_t n_heads, int64_t dim, float* y) {
  for (int64_t h = 0; h < n_heads; ++h) {
    for (int64_t i = 0; i < dim; i += kLanes) {
      const lanes o = load(total.out + h * padded(dim) + i) / splat(total.sum[h]);
      store_first(y + h * dim + i, o, least(dim - i, kLanes));
    }
  }
}

// The rows of a unit, all of one slot.
template <class Element>
struct Unit {
  const Call& call;
  Cache<Element> cache;
  int64_t first_row, n_rows, group;
  const Element* after;  // what this worker will probably read next

  int64_t kv_len(int64_t r) const { return call.batch.positions[first_row + r] + 1; }
  int64_t n_splits(int64_t r) const { return (kv_len(r) + kAttentionSplit - 1) / kAttentionSplit; }
  int64_t n_keys(int64_t r, int64_t split) const {
    const int64_t left = kv_len(r) - split * kAttentionSplit;
    return left < 0 ? 0 : least(left, kAttentionSplit);
  }
  int64_t most_splits() const {
    int64_t most = 0;
    for (int64_t r = 0; r < n_rows; ++r) most = n_splits(r) > most ? n_splits(r) : most;
    return most;
  }
  int64_t first_head() const { return cache.kv_head * group; }
  float* y(int64_t r) const { return call.out[0].row<float>(first_row + r) + first_head() * cache.dim; }
  // Where the split's part for all heads of the group lies, when splits go to different workers.
  float* shared(int64_t r, int64_t split) const {
    const int64_t place = ((first_row + r) * call.ints[2] + cache.kv_head) * call.batch.n_splits + split;
    return call.parts + place * part_floats(group, cache.dim);
  }
};

// N heads from h on, all splits one after the other (split < 0), or the one split, whose parts are left for others to fold.
template <int N, class Element>
inline void attend_heads(const Unit<Element>& unit, int64_t h, int64_t split) {
  const int64_t dim = unit.cache.dim, row_floats = N * kAttentionSplit + 2 * part_floats(N, dim);
  float* stage = unit.call.scratch;
  float* rooms = stage + kPiece * padded(dim);
  Row rows[kTileRows];
  for (int64_t r = 0; r < unit.n_rows; ++r) {
    rows[r].q = unit.call.in[0].template row<const float>(unit.first_row + r) + (unit.first_head() + h) * dim;
    rows[r].y = unit.y(r) + h * dim;
    rows[r].p = rooms + r * row_floats;
  }
  const auto total = [&](int64_t r) { return part_at(rows[r].p + N * kAttentionSplit, N, dim, 0); };
  const auto next = [&](int64_t r) { return part_at(rows[r].p + N * kAttentionSplit + part_floats(N, dim), N, dim, 0); };
  int64_t end = 0;
  for (int64_t r = 0; r < unit.n_rows; ++r) end = unit.kv_len(r) > end ? unit.kv_len(r) : end;
  const int64_t first = split < 0 ? 0 : split, last = split < 0 ? unit.most_splits() : split + 1;
  for (int64_t s = first; s < last; ++s) {
    for (int64_t r = 0; r < unit.n_rows; ++r) {
      rows[r].n_keys = unit.n_keys(r, s);
      rows[r].part = split >= 0 ? part_at(unit.shared(r, s), unit.group, dim, h) : s == 0 ? total(r) : next(r);
    }
    attend_split<N>(unit.cache, rows, unit.n_rows, s * kAttentionSplit, end, unit.after, stage);
    if (split >= 0 || s == 0) continue;
    for (int64_t r = 0; r < unit.n_rows; ++r) {
      if (rows[r].n_keys > 0) merge(total(r), next(r), N, dim);
    }
  }
  for (int64_t r = 0; split < 0 && r < unit.n_rows; ++r) divide(total(r), N, dim, unit.y(r) + h * dim);
}

// The splits of a unit's rows, folded in the order of positions by the worker that finished last.
template <class Element>
inline void fold_splits(const Unit<Element>& unit) {
  const int64_t dim = unit.cache.dim;
  for (int64_t r = 0; r < unit.n_rows; ++r) {
    const Part total = part_at(unit.shared(r, 0), unit.group, dim, 0);
    for (int64_t s = 1; s < unit.n_splits(r); ++s) merge(total, part_at(unit.shared(r, s), unit.group, dim, 0), unit.group, dim);
    divide(total, unit.group, dim, unit.y(r));
  }
}

// The first key of a tile and key-value head `ahead` places behind those of `cache`, whose own it is where nothing is that far behind. Its
// scales are asked for.
template <class Element>
inline const Element* key_after(const Call& call, const Cache<Element>& cache, int64_t tile, int64_t ahead) {
  const int64_t n_kv_heads = call.ints[2], head = cache.kv_head + ahead;
  int64_t row = call.batch.tiles[tile];
  for (int64_t n = head / n_kv_heads; n > 0 && row < call.t; --n) row = call.batch.tiles[++tile];
  if (row == call.t) return cache.key(0);
  const int32_t* blocks = call.batch.block_tables + call.batch.slots[row] * call.batch.table_width;
  const Cache<Element> other(call, blocks, head % n_kv_heads, cache.dim);
  other.fetch_scales(0, least(kPiece, cache.block_size));
  return other.key(0);
}

// Scores are |s| ≤ d·|q|·65504 in float32: an overflow gives NaN, which the next quantization reports. Reads the keys and values
// of positions 0 … the row's, once.
template <class Element>
inline void attend(const Call& call, int64_t begin, int64_t end, Work& work) {
  const int64_t n_heads = call.ints[1], n_kv_heads = call.ints[2], dim = call.ints[3], n_splits = call.batch.n_splits;
  const int64_t group = n_heads / n_kv_heads;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t split = n_splits == 0 ? -1 : i % n_splits, at = n_splits == 0 ? i : i / n_splits;
    const int64_t tile = at / n_kv_heads, g = at % n_kv_heads, row = call.batch.tiles[tile];
    const int32_t* blocks = call.batch.block_tables + call.batch.slots[row] * call.batch.table_width;
    const Cache<Element> cache(call, blocks, g, dim);
    // Units that are no splits go to the workers in turn.
    const int64_t ahead = n_splits > 0 || i + 1 < end ? 1 : call.partials.n_workers;
    const Unit<Element> unit{call, cache, row, call.batch.tiles[tile + 1] - row, group, key_after(call, cache, tile, ahead)};
    for (int64_t h = 0; h < group; h += kHeadTile) {
      switch (group - h) {
        case 1: attend_heads<1>(unit, h, split); break;
        case 2: attend_heads<2>(unit, h, split); break;
        case 3: attend_heads<3>(unit, h, split); break;
        default: attend_heads<4>(unit, h, split); break;
      }
    }
    for (int64_t r = 0; r < unit.n_rows; ++r) {
      const int64_t n_keys = split < 0 ? unit.kv_len(r) : unit.n_keys(r, split);
      work.macs += static_cast<uint64_t>(2 * group * dim * n_keys);
      work.bytes += static_cast<uint64_t>(2 * Cache<Element>::vector_bytes(dim) * n_keys);
      if (g == n_kv_heads - 1) zero_padding(call.out[0].row<float>(row + r), n_heads * dim);
    }
    if (split < 0 || __atomic_add_fetch(call.arrivals + at, 1, __ATOMIC_ACQ_REL) != n_splits) continue;
    fold_splits(unit);
    __atomic_store_n(call.arrivals + at, 0, __ATOMIC_RELAXED);
  }
}

KERNEL_FUNCTION(attention_real) { attend<uint16_t>(call, begin, end, work); }
KERNEL_FUNCTION(attention_int8) { attend<int8_t>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
