// logits_projection: lane_sum(hidden·row) for every row of the vocabulary.
#pragma once

#include "generic/rows.h"
#include "generic/sums.h"

namespace tritium {
namespace {

constexpr int64_t kGroupRows = 16;                    // vocabulary rows in a unit
constexpr int kWidest = kAccumulators >= 16 ? 4 : 2;  // outputs in a tile: more would load more hidden state than they save weights

// Sums of R rows × N outputs, in registers.
template <int R, int N>
struct Logits {
  Sums<N> first;
  Logits<R - 1, N> rest;
};
template <int N>
struct Logits<0, N> {};

template <int R, int N>
[[gnu::always_inline]] inline void clear(Logits<R, N>& s) {
  clear(s.first);
  if constexpr (R > 1) clear(s.rest);
}

template <int N>
[[gnu::always_inline]] inline void accumulate(Sums<N>& s, const float* h, int64_t stride, const lanes& w) {
  s.first = s.first + load(h) * w;
  if constexpr (N > 1) accumulate(s.rest, h + stride, stride, w);
}
template <class Rows, int R>
struct Blocks {
  typename Rows::Block first;
  Blocks<Rows, R - 1> rest;
};
template <class Rows>
struct Blocks<Rows, 0> {};

template <class Rows, int R>
[[gnu::always_inline]] inline void open(Blocks<Rows, R>& blocks, const uint8_t* data, int64_t bytes) {
  Rows::open(blocks.first, data);
  if constexpr (R > 1) open(blocks.rest, data + bytes, bytes);
}
template <class Rows, int R, int N>
[[gnu::always_inline]] inline void accumulate(Logits<R, N>& s, const float* h, int64_t stride, const Blocks<Rows, R>& blocks,
                                              const uint8_t* data, int64_t bytes, int64_t g) {
  accumulate(s.first, h, stride, Rows::group(blocks.first, data, g));
  if constexpr (R > 1) accumulate<Rows>(s.rest, h, stride, blocks.rest, data + bytes, bytes, g);
}
template <class Rows, int R, int N>
[[gnu::always_inline]] inline void accumulate_tail(Logits<R, N>& s, const float* h, int64_t stride, const uint8_t* row,
                                                   int64_t bytes, int64_t n) {
  accumulate(s.first, h, stride, Rows::tail(row, n));
  if constexpr (R > 1) accumulate_tail<Rows>(s.rest, h, stride, row + bytes, bytes, n);
}

template <int N>
[[gnu::always_inline]] inline void finish(const Sums<N>& s, float* y, int64_t stride) {
  *y = tree_sum(s.first);
  if constexpr (N > 1) finish(s.rest, y + stride, stride);
}
template <int R, int N>
[[gnu::always_inline]] inline void finish(const Logits<R, N>& s, float* y, int64_t stride) {
  finish(s.first, y, stride);
  if constexpr (R > 1) finish(s.rest, y + 1, stride);
}

// R rows of `bytes` each against N outputs, while as many bytes from `ahead` on are fetched: what comes next.
template <class Rows, int R, int N>
inline void project(const uint8_t* rows, int64_t bytes, int64_t cols, const float* h, int64_t h_stride, float* y, int64_t y_stride,
                    const uint8_t* ahead) {
  const int64_t n_blocks = cols / (16 * Rows::kGroups);
  Logits<R, N> sums;
  clear(sums);
  Blocks<Rows, R> blocks;
  const uint8_t* data = rows;
  for (int64_t b = 0; b < n_blocks; ++b) {
    open(blocks, data, bytes);
    for (int64_t line = 0; line < R * Rows::kBytes; line += 64) __builtin_prefetch(ahead + line, 0, 2);
    for (int64_t g = 0; g < Rows::kGroups; ++g, h += 16) accumulate<Rows>(sums, h, h_stride, blocks, data, bytes, g);
    data += Rows::kBytes;
    ahead += R * Rows::kBytes;
  }
  if (cols % 16 != 0) accumulate_tail<Rows>(sums, h, h_stride, data, bytes, cols % 16);
  finish(sums, y, y_stride);
}

// All rows of one unit against the outputs from `output` on: N at a time, then the rest N / 2 at a time.
template <class Rows, int N>
inline void project_group(const uint8_t* rows, int64_t n_rows, const Call& call, int64_t first, int64_t output) {
  constexpr int kTall = N > 2 ? kAccumulators / N : 2;  // rows a tile
  const int64_t cols = call.weights[0].cols;
  const int64_t bytes = row_bytes<Rows>(cols);
  const int64_t h_stride = call.in[0].stride, y_stride = call.out[0].stride;
  for (; output + N <= call.t; output += N) {
    const float* h = call.in[0].row<const float>(output);
    float* y = call.out[0].row<float>(output) + first;
    int64_t v = 0;
    for (; v + kTall <= n_rows; v += kTall) {
      const uint8_t* at = rows + v * bytes;
      project<Rows, kTall, N>(at, bytes, cols, h, h_stride, y + v, y_stride, at + kTall * bytes);
    }
    for (; v < n_rows; ++v) {
      const uint8_t* at = rows + v * bytes;
      project<Rows, 1, N>(at, bytes, cols, h, h_stride, y + v, y_stride, at + bytes);
    }
  }
  if constexpr (N > 1) project_group<Rows, N / 2>(rows, n_rows, call, first, output);
}

// Reads every row of the range once, for more outputs than a tile holds from the cache again. Sums of k products: an overflow of
// float32 shows as infinity or NaN in the logits.
template <class Rows>
inline void logits_projection(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& table = call.weights[0];
  const int64_t bytes = row_bytes<Rows>(table.cols);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kGroupRows;
    const int64_t n_rows = table.rows - first < kGroupRows ? table.rows - first : kGroupRows;
    project_group<Rows, kWidest>(table.data + first * bytes, n_rows, call, first, 0);
    work.macs += static_cast<uint64_t>(call.t * n_rows * table.cols);
    work.bytes += static_cast<uint64_t>(n_rows * bytes);
  }
}

KERNEL_FUNCTION(logits_projection_f32) { logits_projection<F32Rows>(call, begin, end, work); }
KERNEL_FUNCTION(logits_projection_f16) { logits_projection<F16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(logits_projection_bf16) { logits_projection<Bf16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(logits_projection_q8_0) { logits_projection<Q8Rows>(call, begin, end, work); }
KERNEL_FUNCTION(logits_projection_q6_k) { logits_projection<Q6Rows>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
