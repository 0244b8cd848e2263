// linear of one token that reads only what can matter: rows whose gate is open, columns whose code is not zero. A unit brings the
// products: append_positive, append_nonzero, arrange, multiply_rows, add_columns, kSumsShifted.
#pragma once

#include <cfloat>
#include <cstring>

#include "kernel.h"

namespace tritium {
namespace {

// Sixteen lanes of the compiler's own.
using lane_ints = int32_t __attribute__((vector_size(64)));
using lane_floats = float __attribute__((vector_size(64)));

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What a closed gate multiplies is zero only if it is finite: no product can overflow if the greatest sum's does not.
inline bool may_skip(float scale, int64_t k) {
  const float most = __builtin_fabsf(scale) * static_cast<float>(128 * k);
  return most <= FLT_MAX;
}

// Rows of in[0] · weights where the gate in[2] is above 0, or all of them without a gate; +0 elsewhere. relu2_mul makes a zero of
// either, and the quantization behind it the code 0. Reads the rows' bytes and the scale. |Σ code·64·a| ≤ 128·128·k < 2³¹.
KERNEL_FUNCTION(i2s_rows_gemv) {
  const Resident& w = call.weights[0];
  const int64_t k = w.cols, row_bytes = k / 4;
  const int64_t first = kPanelRows * begin, behind = kPanelRows * end, last = behind < w.rows ? behind : w.rows;
  float scale_w;
  std::memcpy(&scale_w, w.data + w.rows * row_bytes, sizeof scale_w);
  const float scale = *call.in[1].row<const float>(0) * scale_w;
  float* out = call.out[0].row<float>(0);
  std::memset(out + first, 0, static_cast<size_t>(behind - first) * sizeof(float));
  int8_t* a = reinterpret_cast<int8_t*>(call.scratch);
  int32_t* rows = reinterpret_cast<int32_t*>(a + padded(k, 256));
  int64_t n = 0;
  if (call.in[2].data != nullptr && may_skip(scale, k)) {
    n = append_positive(call.in[2].row<const float>(0), first, last, rows);
  } else {
    for (int64_t r = first; r < last; ++r) rows[n++] = static_cast<int32_t>(r);
  }
  const int32_t total = arrange(call.in[0].row<const int8_t>(0), k, a);
  multiply_rows(w.data, row_bytes, rows, n, a, total, scale, out);
  work.macs += static_cast<uint64_t>(n * k);
  work.macs_skipped += static_cast<uint64_t>((last - first - n) * k);
  work.bytes += static_cast<uint64_t>(n * row_bytes + (begin == 0 ? 4 : 0));
}

// The sums of all workers become outputs, and zero again.
inline void finish_columns(const Call& call, float scale, int32_t total) {
  const Resident& w = call.weights[0];
  const Partials& all = call.partials;
  const int64_t written = padded(w.rows, kPanelRows);
  float* out = call.out[0].row<float>(0);
  for (int64_t r = 0; r < padded(w.rows, kColumnRows); r += kLanes) {
    lane_ints sums{};
    for (int64_t i = 0; i < all.n_workers; ++i) {
      int32_t* part = all.sums + i * all.stride;
      if (part[all.stride - 1] == 0) continue;
      lane_ints x;
      std::memcpy(&x, part + r, sizeof x);
      sums += x;
      std::memset(part + r, 0, sizeof x);
    }
    if (r >= written) continue;
    if (kSumsShifted) sums >>= static_cast<int32_t>(r / 64 % 4 * 2);
    lane_floats y = __builtin_convertvector(sums - total, lane_floats) * scale;
    if (call.ints[4] != 0) {
      lane_floats before;
      std::memcpy(&before, out + r, sizeof before);
      y = before + y;
    }
    std::memcpy(out + r, &y, sizeof y);
  }
  for (int64_t i = 0; i < all.n_workers; ++i) all.sums[i * all.stride + all.stride - 1] = 0;
}

// Each worker sums the columns of its units; the last one to finish adds the workers' sums, in any order exact. Reads the columns
// whose code is not zero, and the scale. |Σ code·64·a| ≤ 128·128·k < 2³¹, of all workers together.
KERNEL_FUNCTION(i2s_columns_gemv) {
  const Resident& w = call.weights[0];
  const int64_t column_bytes = padded(w.rows, kColumnRows) / 4;
  const int8_t* q = call.in[0].row<const int8_t>(0);
  int32_t* columns = reinterpret_cast<int32_t*>(call.scratch);
  int8_t* codes = reinterpret_cast<int8_t*>(columns + padded(end - begin, 16) + 16);
  const int64_t n = append_nonzero(q, begin, end, columns);
  for (int64_t i = 0; i < n; ++i) codes[i] = q[columns[i]];
  for (int64_t i = n; i < padded(n, 16); ++i) {
    columns[i] = columns[n - 1];
    codes[i] = 0;
  }
  int32_t* mine = call.partials.sums + call.partials.worker * call.partials.stride;
  mine[call.partials.stride - 1] = 1;
  add_columns(w.data, column_bytes, columns, n, codes, mine);
  work.macs += static_cast<uint64_t>(n * w.rows);
  work.macs_skipped += static_cast<uint64_t>((end - begin - n) * w.rows);
  work.bytes += static_cast<uint64_t>(n * column_bytes + (begin == 0 ? 4 : 0));
  if (__atomic_add_fetch(call.partials.done, end - begin, __ATOMIC_ACQ_REL) != w.cols) return;
  *call.partials.done = 0;
  float scale_w;
  std::memcpy(&scale_w, w.data + w.cols * column_bytes, sizeof scale_w);
  finish_columns(call, *call.in[1].row<const float>(0) * scale_w, sum_of_codes(q, w.cols));
}

}  // namespace
}  // namespace tritium
