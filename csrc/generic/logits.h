// logits_projection: lane_sum(hidden·row) for every row of the vocabulary.
#pragma once

#include "generic/rows.h"
#include "generic/sums.h"

namespace tritium {
namespace {

constexpr int64_t kGroupRows = 16;  // vocabulary rows in a unit

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
template <class Block, int R, int N>
[[gnu::always_inline]] inline void accumulate(Logits<R, N>& s, const float* h, int64_t stride, const Block* blocks, int64_t g) {
  accumulate(s.first, h, stride, blocks->group(g));
  if constexpr (R > 1) accumulate(s.rest, h, stride, blocks + 1, g);
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

// R rows of `bytes` each against N outputs. Streams: the rows that follow are fetched in the order in which they lie in memory.
template <class Rows, int R, int N>
inline void project(const uint8_t* rows, int64_t bytes, int64_t cols, const float* h, int64_t h_stride, float* y, int64_t y_stride) {
  const int64_t n_blocks = cols / (16 * Rows::kGroups);
  const uint8_t* ahead = rows + R * bytes;
  Logits<R, N> sums;
  clear(sums);
  typename Rows::Block blocks[R];
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (int64_t r = 0; r < R; ++r) Rows::open(blocks[r], rows + r * bytes + b * Rows::kBytes);
    for (int64_t line = 0; line < R * Rows::kBytes; line += 64) __builtin_prefetch(ahead + line);
    ahead += R * Rows::kBytes;
    for (int64_t g = 0; g < Rows::kGroups; ++g) accumulate(sums, h + 16 * (b * Rows::kGroups + g), h_stride, blocks, g);
  }
  if (cols % 16 != 0) accumulate_tail<Rows>(sums, h + cols / 16 * 16, h_stride, rows + n_blocks * Rows::kBytes, bytes, cols % 16);
  finish(sums, y, y_stride);
}

// All rows of one unit against N outputs.
template <class Rows, int R, int N>
inline void project_group(const uint8_t* rows, int64_t n_rows, int64_t cols, const Operand& in, const Operand& out, int64_t first,
                          int64_t output) {
  const int64_t bytes = row_bytes<Rows>(cols);
  const float* h = in.row<const float>(output);
  float* y = out.row<float>(output) + first;
  int64_t v = 0;
  for (; v + R <= n_rows; v += R) project<Rows, R, N>(rows + v * bytes, bytes, cols, h, in.stride, y + v, out.stride);
  for (; v < n_rows; ++v) project<Rows, 1, N>(rows + v * bytes, bytes, cols, h, in.stride, y + v, out.stride);
}

// Reads every row of the range once (from cache again for each further eight outputs). Sums of k products: an overflow of float32
// shows as infinity or NaN in the logits.
template <class Rows>
inline void logits_projection(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& table = call.weights[0];
  const int64_t bytes = row_bytes<Rows>(table.cols);
  constexpr int kWide = kAccumulators >= 16 ? 4 : 2;  // outputs a tile
  constexpr int kTall = kAccumulators / kWide;        // rows a tile
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kGroupRows;
    const int64_t n_rows = table.rows - first < kGroupRows ? table.rows - first : kGroupRows;
    const uint8_t* rows = table.data + first * bytes;
    int64_t o = 0;
    for (; o + kWide <= call.t; o += kWide) {
      project_group<Rows, kTall, kWide>(rows, n_rows, table.cols, call.in[0], call.out[0], first, o);
    }
    for (; o < call.t; ++o) project_group<Rows, 4, 1>(rows, n_rows, table.cols, call.in[0], call.out[0], first, o);
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
