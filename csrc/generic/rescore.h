// The canonical logits of few rows of a head: those that screen.h leaves.
#pragma once

#include "generic/screen.h"
#include "generic/select.h"

namespace tritium {
namespace {

// Reads the rows of the k greatest estimates. A threshold that is NaN leaves every row, as do bounds of +∞.
template <class Rows>
inline void threshold(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& table = call.weights[0];
  const int64_t k = call.batch.top_k, bytes = row_bytes<Rows>(table.cols);
  float* values = call.scratch;
  int32_t* ids = reinterpret_cast<int32_t*>(call.scratch + k);
  for (int64_t r = begin; r < end; ++r) {
    const float* h = call.in[0].row<const float>(r);
    choose(call.in[1].row<const float>(r), table.rows, k, values, ids);
    float least = __builtin_inff();
    for (int64_t i = 0; i < k; ++i) {
      float logit;
      const uint8_t* ahead = table.data + ids[i + 1 < k ? i + 1 : i] * bytes;
      project<Rows, 1, 1>(table.data + ids[i] * bytes, bytes, table.cols, h, 0, &logit, 0, ahead);
      least = logit < least ? logit : least;
    }
    *call.out[0].row<float>(r) = least;
    work.macs += static_cast<uint64_t>(k * table.cols);
    work.bytes += static_cast<uint64_t>(k * bytes);
  }
}

// Reads the rows that an output's threshold leaves, for each output; all other logits are −∞, and counted as skipped.
template <class Rows>
inline void rescore(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& table = call.weights[0];
  const int64_t bytes = row_bytes<Rows>(table.cols), begin_row = begin * kGroupRows;
  const int64_t end_row = end * kGroupRows < table.rows ? end * kGroupRows : table.rows;
  int32_t* rows = reinterpret_cast<int32_t*>(call.scratch);
  for (int64_t r = 0; r < call.t; ++r) {
    const float *h = call.in[0].row<const float>(r), *upper = call.in[1].row<const float>(r);
    const float least = *call.in[2].row<const float>(r);
    float* logits = call.out[0].row<float>(r);
    int64_t n_read = 0;
    for (int64_t from = begin_row; from < end_row; from += kListRows) {
      const int64_t to = from + kListRows < end_row ? from + kListRows : end_row;
      const int64_t n = list_rows(upper, from, to, least, rows);
      if (n < to - from) {
        for (int64_t i = from; i < to; ++i) logits[i] = -__builtin_inff();
      }
      for (int64_t i = 0; i < n; ++i) {
        const uint8_t* ahead = table.data + rows[i + 1 < n ? i + 1 : i] * bytes;
        project<Rows, 1, 1>(table.data + rows[i] * bytes, bytes, table.cols, h, 0, logits + rows[i], 0, ahead);
      }
      n_read += n;
    }
    work.macs += static_cast<uint64_t>(n_read * table.cols);
    work.macs_skipped += static_cast<uint64_t>((end_row - begin_row - n_read) * table.cols);
    work.bytes += static_cast<uint64_t>(n_read * bytes);
  }
}

KERNEL_FUNCTION(threshold_f32) { threshold<F32Rows>(call, begin, end, work); }
KERNEL_FUNCTION(threshold_f16) { threshold<F16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(threshold_bf16) { threshold<Bf16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(threshold_q8_0) { threshold<Q8Rows>(call, begin, end, work); }
KERNEL_FUNCTION(threshold_q6_k) { threshold<Q6Rows>(call, begin, end, work); }
KERNEL_FUNCTION(rescore_f32) { rescore<F32Rows>(call, begin, end, work); }
KERNEL_FUNCTION(rescore_f16) { rescore<F16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(rescore_bf16) { rescore<Bf16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(rescore_q8_0) { rescore<Q8Rows>(call, begin, end, work); }
KERNEL_FUNCTION(rescore_q6_k) { rescore<Q6Rows>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
