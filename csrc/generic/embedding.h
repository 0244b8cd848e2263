// embedding: rows of a table, by token.
#pragma once

#include "generic/rows.h"

namespace tritium {
namespace {

// Reads one row a token. No sums: nothing can overflow.
template <class Rows>
inline void embedding_lookup(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& table = call.weights[0];
  const int64_t bytes = row_bytes<Rows>(table.cols);
  const int64_t blocks = table.cols / (16 * Rows::kGroups);
  const int64_t tail = table.cols % 16;
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t* row = table.data + call.batch.tokens[r] * bytes;
    float* out = call.out[0].row<float>(r);
    typename Rows::Block block;
    for (int64_t b = 0; b < blocks; ++b) {
      const uint8_t* data = row + b * Rows::kBytes;
      Rows::open(block, data);
      for (int64_t g = 0; g < Rows::kGroups; ++g) store(out + 16 * (b * Rows::kGroups + g), Rows::group(block, data, g));
    }
    if (tail != 0) store(out + table.cols - tail, Rows::tail(row + blocks * Rows::kBytes, tail));
    work.bytes += static_cast<uint64_t>(bytes);
  }
}

KERNEL_FUNCTION(embedding_lookup_f32) { embedding_lookup<F32Rows>(call, begin, end, work); }
KERNEL_FUNCTION(embedding_lookup_f16) { embedding_lookup<F16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(embedding_lookup_bf16) { embedding_lookup<Bf16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(embedding_lookup_q8_0) { embedding_lookup<Q8Rows>(call, begin, end, work); }
KERNEL_FUNCTION(embedding_lookup_q6_k) { embedding_lookup<Q6Rows>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
