// linear that multiplies only what can matter: rows whose gate is open, columns whose code is not zero. Of one token it reads only
// these; of many, everything, a block at a time that stays near while the tokens pass. A unit brings the products: append_positive,
// append_nonzero, arrange, multiply_rows, add_columns, add_near_columns, Listed, kSumsShifted.
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

// What asks for the next block while one is multiplied: a line for each line that is read, so that misses spread over the products.
// All lines in a row would find no free place among the misses, and be dropped.
struct InOrder {
  const uint8_t *next, *end;
  static constexpr void begin(const uint8_t*, int64_t, const int32_t*, int64_t) {}
  template <int kWidth>
  struct At {
    InOrder& all;
    [[gnu::always_inline]] void ask(int64_t b) const {
      if (b % 64 == 0) all.lines(kWidth);
    }
  };
  template <int kWidth>
  [[gnu::always_inline]] At<kWidth> at(const uint8_t*, int64_t, const int32_t*, int64_t, int64_t) {
    return {*this};
  }
  [[gnu::always_inline]] void lines(int64_t n) {
    if (next >= end) return;
    for (int64_t i = 0; i < n; ++i) __builtin_prefetch(next + 64 * i, 0, 2);
    next += 64 * n;
  }
};

// Asks for the bytes from `at` on: rows of tokens lie too far apart for the processor to guess the next one.
inline void ask_for(const void* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(at) + i);
}

inline float scale_behind(const uint8_t* codes) {
  float scale;
  std::memcpy(&scale, codes, sizeof scale);
  return scale;
}

// Those of rows first … last − 1 where the gate in[2] is above 0, or all of them without a gate or where a product may overflow.
inline int64_t needed_rows(const Call& call, int64_t token, float scale, int64_t first, int64_t last, int32_t* rows) {
  if (call.in[2].data != nullptr && may_skip(scale, call.weights[0].cols)) {
    return append_positive(call.in[2].row<const float>(token), first, last, rows);
  }
  for (int64_t r = first; r < last; ++r) rows[r - first] = static_cast<int32_t>(r);
  return last - first;
}

// Rows of in[0] · weights whose gate is open; +0 elsewhere. relu2_mul makes a zero of either, and the quantization behind it the
// code 0. Reads the rows' bytes and the scale. |Σ code·64·a| ≤ 128·128·k < 2³¹.
KERNEL_FUNCTION(i2s_rows_gemv) {
  const Resident& w = call.weights[0];
  const int64_t k = w.cols, row_bytes = k / 4;
  const int64_t first = kPanelRows * begin, behind = kPanelRows * end, last = behind < w.rows ? behind : w.rows;
  const float scale = *call.in[1].row<const float>(0) * scale_behind(w.data + w.rows * row_bytes);
  float* out = call.out[0].row<float>(0);
  std::memset(out + first, 0, static_cast<size_t>(behind - first) * sizeof(float));
  int8_t* a = reinterpret_cast<int8_t*>(call.scratch);
  int32_t* rows = reinterpret_cast<int32_t*>(a + padded(k, 256));
  const int64_t n = needed_rows(call, 0, scale, first, last, rows);
  const int32_t total = arrange(call.in[0].row<const int8_t>(0), k, a);
  Listed asks;
  multiply_rows(w.data, row_bytes, rows, n, a, total, scale, out, asks);
  work.macs += static_cast<uint64_t>(n * k);
  work.macs_skipped += static_cast<uint64_t>((last - first - n) * k);
  work.bytes += static_cast<uint64_t>(n * row_bytes + (begin == 0 ? 4 : 0));
}

// The same of many tokens: a block of rows stays in the second level while those pass whose activations fit the scratch memory. Reads
// all rows, and the scale.
KERNEL_FUNCTION(i2s_rows_gemm) {
  constexpr int64_t kRows = 128, kMostTokens = 64, kNear = 32;  // gates and outputs of so many tokens are near
  const Resident& w = call.weights[0];
  const int64_t k = w.cols, row_bytes = k / 4, width = padded(k, 256);
  const int64_t first = kPanelRows * begin, behind = kPanelRows * end, last = behind < w.rows ? behind : w.rows;
  const float scale_w = scale_behind(w.data + w.rows * row_bytes);
  int32_t rows[kRows + 16], totals[kMostTokens];
  int8_t* a = reinterpret_cast<int8_t*>(call.scratch);
  const int64_t room = call.scratch_floats * static_cast<int64_t>(sizeof(float)) / width, most = room < kMostTokens ? room : kMostTokens;
  for (int64_t t = 0; t < call.t; t += most) {
    const int64_t n_tokens = call.t - t < most ? call.t - t : most;
    for (int64_t i = 0; i < n_tokens; ++i) totals[i] = arrange(call.in[0].row<const int8_t>(t + i), k, a + i * width);
    for (int64_t r = first; r < last; r += kRows) {
      const int64_t stop = last - r < kRows ? last : r + kRows, after = last - stop < kRows ? last : stop + kRows;
      InOrder asks{w.data + stop * row_bytes, w.data + after * row_bytes};
      for (int64_t i = 0; i < n_tokens; ++i) {
        if (call.t > kNear && i + 1 < n_tokens) {
          if (call.in[2].data != nullptr) ask_for(call.in[2].row<const float>(t + i + 1) + r, (stop - r) * 4);
          ask_for(call.out[0].row<float>(t + i + 1) + r, (stop - r) * 4);
        }
        const float scale = *call.in[1].row<const float>(t + i) * scale_w;
        float* out = call.out[0].row<float>(t + i);
        std::memset(out + r, 0, static_cast<size_t>((stop == last ? behind : stop) - r) * sizeof(float));
        const int64_t n = needed_rows(call, t + i, scale, r, stop, rows);
        multiply_rows(w.data, row_bytes, rows, n, a + i * width, totals[i], scale, out, asks);
        work.macs += static_cast<uint64_t>(n * k);
        work.macs_skipped += static_cast<uint64_t>((stop - r - n) * k);
      }
    }
  }
  work.bytes += static_cast<uint64_t>((last - first) * row_bytes + (begin == 0 ? 4 : 0));
}

// Columns first … last − 1 whose code q is not zero, and their codes, to the next multiple of 16 with codes 0; returns how many.
inline int64_t needed_columns(const int8_t* q, int64_t first, int64_t last, int32_t* columns, int8_t* codes) {
  const int64_t n = append_nonzero(q, first, last, columns);
  for (int64_t i = 0; i < n; ++i) codes[i] = q[columns[i]];
  for (int64_t i = n; i < padded(n, 16); ++i) {
    columns[i] = columns[n - 1];
    codes[i] = 0;
  }
  return n;
}

// The sums of workers first … last − 1 become outputs of tokens, and zero again.
inline void finish_columns(const Call& call, int64_t first, int64_t last, int64_t token, int64_t n_tokens) {
  const Resident& w = call.weights[0];
  const Partials& all = call.partials;
  const int64_t written = padded(w.rows, kPanelRows), width = padded(w.rows, kColumnRows);
  const float scale_w = scale_behind(w.data + w.cols * width / 4);
  for (int64_t t = 0; t < n_tokens; ++t) {
    const float scale = *call.in[1].row<const float>(token + t) * scale_w;
    const int32_t total = sum_of_codes(call.in[0].row<const int8_t>(token + t), w.cols);
    float* out = call.out[0].row<float>(token + t);
    for (int64_t r = 0; r < width; r += kLanes) {
      lane_ints sums{};
      for (int64_t i = first; i < last; ++i) {
        if (all.of(i, 0)[all.stride - 1] == 0) continue;
        lane_ints x;
        std::memcpy(&x, all.of(i, t) + r, sizeof x);
        sums += x;
        std::memset(all.of(i, t) + r, 0, sizeof x);
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
  }
  for (int64_t i = first; i < last; ++i) all.of(i, 0)[all.stride - 1] = 0;
}

// Where a worker has done a part of the columns, the last one to finish adds the workers' sums, in any order exact.
inline void end_part(const Call& call, const ColumnUnits& units) {
  if (__atomic_add_fetch(call.partials.done, 1, __ATOMIC_ACQ_REL) != units.n_parts) return;
  *call.partials.done = 0;
  finish_columns(call, 0, call.partials.n_workers, 0, call.t);
}

// Each worker sums the columns of its units. Reads the columns whose code is not zero, and the scale. |Σ code·64·a| ≤ 128·128·k < 2³¹,
// of all workers together.
KERNEL_FUNCTION(i2s_columns_gemv) {
  const Resident& w = call.weights[0];
  const ColumnUnits units(1, w.cols, call.partials.n_workers);
  const int64_t column_bytes = padded(w.rows, kColumnRows) / 4;
  int32_t* mine = call.partials.of(call.partials.worker, 0);
  for (int64_t part = begin; part < end; ++part) {
    const int64_t first = units.first_column(part), last = units.first_column(part + 1);
    int32_t* columns = reinterpret_cast<int32_t*>(call.scratch);
    int8_t* codes = reinterpret_cast<int8_t*>(columns + padded(last - first, 16) + 16);
    const int64_t n = needed_columns(call.in[0].row<const int8_t>(0), first, last, columns, codes);
    mine[call.partials.stride - 1] = 1;
    add_columns(w.data, column_bytes, columns, n, codes, mine);
    work.macs += static_cast<uint64_t>(n * w.rows);
    work.macs_skipped += static_cast<uint64_t>((last - first - n) * w.rows);
    work.bytes += static_cast<uint64_t>(n * column_bytes + (part == 0 ? 4 : 0));
    end_part(call, units);
  }
}

// The same of many tokens: a block of columns stays in the second level while the group's tokens pass. Reads all columns, and the
// scale; the first group counts them.
KERNEL_FUNCTION(i2s_columns_gemm) {
  constexpr int64_t kColumns = 256;
  const Resident& w = call.weights[0];
  const ColumnUnits units(call.t, w.cols, call.partials.n_workers);
  const int64_t column_bytes = padded(w.rows, kColumnRows) / 4, worker = call.partials.worker;
  int32_t columns[kColumns + 16];
  int8_t codes[kColumns + 16];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / units.n_parts, part = unit % units.n_parts;
    const int64_t token = units.first_token(group), n_tokens = units.first_token(group + 1) - token;
    const int64_t first = units.first_column(part), last = units.first_column(part + 1);
    call.partials.of(worker, 0)[call.partials.stride - 1] = 1;
    for (int64_t c = first; c < last; c += kColumns) {
      const int64_t stop = last - c < kColumns ? last : c + kColumns, after = last - stop < kColumns ? last : stop + kColumns;
      InOrder asks{w.data + stop * column_bytes, w.data + after * column_bytes};
      for (int64_t t = 0; t < n_tokens; ++t) {
        const int64_t n = needed_columns(call.in[0].row<const int8_t>(token + t), c, stop, columns, codes);
        add_near_columns(w.data, column_bytes, columns, n, codes, call.partials.of(worker, t), asks);
        work.macs += static_cast<uint64_t>(n * w.rows);
        work.macs_skipped += static_cast<uint64_t>((stop - c - n) * w.rows);
      }
    }
    if (group == 0) work.bytes += static_cast<uint64_t>((last - first) * column_bytes + (part == 0 ? 4 : 0));
    if (units.n_parts > 1) {
      end_part(call, units);
    } else {
      finish_columns(call, worker, worker + 1, token, n_tokens);
    }
  }
}

}  // namespace
}  // namespace tritium
