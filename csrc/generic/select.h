// select: the k greatest logits of a row, by descending value, ties by ascending id.
#pragma once

#include "kernel.h"

namespace tritium {
namespace {

// Candidate `a` stands after candidate `b`.
inline bool after(float value_a, int32_t id_a, float value_b, int32_t id_b) {
  return value_a < value_b || (value_a == value_b && id_a > id_b);
}

// Let the candidate at the root of a heap of n, whose root is the last in order, sink to its place.
inline void sink(float* values, int32_t* ids, int64_t n) {
  const float value = values[0];
  const int32_t id = ids[0];
  int64_t at = 0;
  for (;;) {
    int64_t child = 2 * at + 1;
    if (child >= n) break;
    if (child + 1 < n && after(values[child + 1], ids[child + 1], values[child], ids[child])) ++child;
    if (!after(values[child], ids[child], value, id)) break;
    values[at] = values[child];
    ids[at] = ids[child];
    at = child;
  }
  values[at] = value;
  ids[at] = id;
}

// Let the candidate at position `at` rise to its place.
inline void rise(float* values, int32_t* ids, int64_t at) {
  const float value = values[at];
  const int32_t id = ids[at];
  while (at > 0) {
    const int64_t parent = (at - 1) / 2;
    if (!after(value, id, values[parent], ids[parent])) break;
    values[at] = values[parent];
    ids[at] = ids[parent];
    at = parent;
  }
  values[at] = value;
  ids[at] = id;
}

// Offer logits[from, to), ids ascending, to a full heap of k. A tie with the last candidate loses: its id is higher.
inline void offer(const float* logits, int64_t from, int64_t to, float* values, int32_t* ids, int64_t k) {
  for (int64_t i = from; i < to; i += 16) {
    const int64_t n = to - i < 16 ? to - i : 16;
    const lanes x = n < 16 ? keep_first(load_first(logits + i, n), n, -__builtin_inff()) : load(logits + i);
    for (uint32_t hits = greater(x, splat(values[0])); hits != 0; hits &= hits - 1) {
      const int64_t at = i + __builtin_ctz(hits);
      if (!(logits[at] > values[0])) continue;
      values[0] = logits[at];
      ids[0] = static_cast<int32_t>(at);
      sink(values, ids, k);
    }
  }
}

// The k ≤ n greatest of logits[0, n), in order.
inline void choose(const float* logits, int64_t n, int64_t k, float* values, int32_t* ids) {
  for (int64_t i = 0; i < k; ++i) {
    values[i] = logits[i];
    ids[i] = static_cast<int32_t>(i);
    rise(values, ids, i);
  }
  offer(logits, k, n, values, ids, k);
  for (int64_t last = k - 1; last > 0; --last) {
    const float value = values[last];
    const int32_t id = ids[last];
    values[last] = values[0];
    ids[last] = ids[0];
    values[0] = value;
    ids[0] = id;
    sink(values, ids, last);
  }
}

// Reads no resident bytes; k ≤ vocab.
KERNEL_FUNCTION(select_topk) {
  (void)work;
  for (int64_t r = begin; r < end; ++r) {
    choose(call.in[0].row<const float>(r), call.ints[0], call.batch.top_k, call.out[1].row<float>(r), call.out[0].row<int32_t>(r));
  }
}

}  // namespace
}  // namespace tritium
