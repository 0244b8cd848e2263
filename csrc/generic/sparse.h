// linear that multiplies only what can matter: rows whose gate is open, columns whose code is not zero. Of one token it reads only
// these; of many, everything, a block at a time that stays near while the tokens pass. A unit brings the products: append_positive,
// append_nonzero, arrange, multiply_rows, add_columns, add_near_columns, Listed, kSumsNested, kSumsStay.
#pragma once

#include <cfloat>
#include <cstring>

#include "kernel.h"

namespace tritium {
namespace {

// Sixteen lanes of the compiler's own.
using lane_ints = int32_t __attribute__((vector_size(64)));
using lane_uints = uint32_t __attribute__((vector_size(64)));
using lane_floats = float __attribute__((vector_size(64)));

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What a closed gate multiplies is zero only if it is finite: no product can overflow if the greatest sum's does not.
inline bool may_skip(float scale, int64_t k) {
  const float most = __builtin_fabsf(scale) * static_cast<float>(128 * k);
  return most <= FLT_MAX;
}

// What asks for the next block while one is multiplied: a few lines at each step, so that misses spread over the products. All lines
// in a row would find no free place among the misses, and be dropped or waited for.
template <int64_t kLines>
struct InOrder {
  const uint8_t *next, *end;
  int64_t step = 64;  // from a line to the next

  [[gnu::always_inline]] void lines(int64_t n = kLines) {
    if (next >= end) return;
    for (int64_t i = 0; i < n; ++i, next += step) __builtin_prefetch(next, 0, 2);
  }
  static constexpr void begin(const uint8_t*, int64_t, const int32_t*, int64_t) {}
  // A line for every two that are read of several rows.
  template <int kWidth>
  struct At {
    InOrder& all;
    [[gnu::always_inline]] void ask(int64_t b) const {
      if (b % 64 == 0) all.lines((kWidth + 1) / 2);
    }
  };
  template <int kWidth>
  [[gnu::always_inline]] At<kWidth> at(const uint8_t*, int64_t, const int32_t*, int64_t, int64_t) {
    return {*this};
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
      const uint8_t* next = w.data + stop * row_bytes;
      InOrder<1> asks{next, next};
      for (int64_t i = 0; i < n_tokens; ++i) {
        asks.end = next + (after - stop) * row_bytes * (i + 1) / n_tokens;  // as many for each token
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

// The same by bytes from the block's begin, and sixteen more that may be asked for.
struct NearColumns {
  static constexpr int64_t kMost = 2048;
  int32_t offsets[kMost + 32];
  int8_t codes[kMost + 32];
  int64_t n;

  void find(const int8_t* q, int64_t first, int64_t last, int64_t column_bytes) {
    n = needed_columns(q, first, last, offsets, codes);
    const int64_t end = padded(n, 16);
    for (int64_t i = 0; i < end; ++i) offsets[i] = static_cast<int32_t>((offsets[i] - first) * column_bytes);
    for (int64_t i = end; i < end + 16; ++i) offsets[i] = 0;
  }
};

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
    lane_uints lower{};
    for (int64_t i = 0; i < width; i += kLanes) {
      const int64_t pair = i / kLanes % 4, r = i / kColumnRows * kColumnRows + 64 * pair + i / 64 % 4 * kLanes;
      lane_uints sums{};
      for (int64_t j = first; j < last; ++j) {
        if (all.of(j, 0)[all.stride - 1] == 0) continue;
        lane_uints x;
        std::memcpy(&x, all.of(j, t) + r, sizeof x);
        sums += x;
        std::memset(all.of(j, t) + r, 0, sizeof x);
      }
      if (kSumsNested) {
        const lane_uints with_lower = sums;
        if (pair > 0) sums -= lower;
        lower = with_lower;
      }
      if (r >= written) continue;
      lane_ints exact = reinterpret_cast<lane_ints>(sums);
      if (kSumsNested) exact >>= static_cast<int32_t>(2 * pair);
      lane_floats y = __builtin_convertvector(exact - total, lane_floats) * scale;
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

// The same of many tokens. A block of columns stays in the second level while the group's tokens pass: whole, and read in order, where
// memory bounds the speed; else what of more columns makes kColumnRows rows, so that few sums are loaded and stored. Reads all columns,
// and the scale; the first group counts them.
KERNEL_FUNCTION(i2s_columns_gemm) {
  const Resident& w = call.weights[0];
  const ColumnUnits units(call.t, w.cols, call.partials.n_workers);
  const bool is_whole = units.n_parts > 1 || !kSumsStay;
  const int64_t column_bytes = padded(w.rows, kColumnRows) / 4, worker = call.partials.worker;
  const int64_t n_columns = is_whole ? 256 : NearColumns::kMost;
  NearColumns* near = reinterpret_cast<NearColumns*>(call.scratch);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / units.n_parts, part = unit % units.n_parts;
    const int64_t token = units.first_token(group), n_tokens = units.first_token(group + 1) - token;
    const int64_t first = units.first_column(part), last = units.first_column(part + 1);
    call.partials.of(worker, 0)[call.partials.stride - 1] = 1;
    for (int64_t c = first; c < last; c += n_columns) {
      const int64_t stop = last - c < n_columns ? last : c + n_columns, after = last - stop < n_columns ? last : stop + n_columns;
      for (int64_t t = 0; t < n_tokens; ++t) {
        near[t].find(call.in[0].row<const int8_t>(token + t), c, stop, column_bytes);
        work.macs += static_cast<uint64_t>(near[t].n * w.rows);
        work.macs_skipped += static_cast<uint64_t>((stop - c - near[t].n) * w.rows);
      }
      const uint8_t *block = w.data + c * column_bytes, *next = w.data + stop * column_bytes;
      if (is_whole) {
        InOrder<4> asks{next, next};
        for (int64_t t = 0; t < n_tokens; ++t) {
          asks.end = next + (after - stop) * column_bytes * (t + 1) / n_tokens;
          add_near_columns(block, column_bytes, near[t].offsets, near[t].n, near[t].codes, call.partials.of(worker, t), asks);
        }
        continue;
      }
      for (int64_t b = 0; b < column_bytes; b += 64) {
        const bool is_last = b + 64 == column_bytes;
        const uint8_t* slice = is_last ? next : block + b + 64;
        InOrder<1> asks{slice, slice + (is_last ? after - stop : stop - c) * column_bytes, column_bytes};
        for (int64_t t = 0; t < n_tokens; ++t) {
          if (t + 1 < n_tokens) ask_for(call.partials.of(worker, t + 1) + 4 * b, 4 * kColumnRows);
          add_near_columns(block + b, 64, near[t].offsets, near[t].n, near[t].codes, call.partials.of(worker, t) + 4 * b, asks);
        }
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
