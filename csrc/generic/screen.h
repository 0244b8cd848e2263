// The k greatest logits without reading the whole head, and exactly those that the whole head gives. Four ops:
//   screen     an upper bound U_v of the canonical logit L_v = lane_sum(h·w_v) of every row, from the high halves of its codes (plane44)
//   threshold  τ: the least L of k rows, those with the greatest estimates (rescore.h)
//   refine     lower upper bounds of the rows with U_v ≥ τ, from the low halves of their codes
//   rescore    L_v itself where still U_v ≥ τ, −∞ elsewhere (rescore.h)
// Where the weight of what is no candidate is wanted, the two thresholds lie apart: tail (rescore.h) tells why any will do.
// At least k rows have L ≥ τ, so a row among the k greatest has U_v ≥ L_v ≥ τ and keeps its logit; ties do, too.
//
// The bound. u = 2⁻²⁴, H = 255·high + low the integers of h, a their unit, e = h − a·H; p_v = s_v·q_v is the plane's row, odd integers
// q_v times the row's scale, and norm_v is not below ‖w_v‖ and ‖p_v‖.
//   h·w_v = a·H·p_v + h·(w_v − p_v) + e·p_v, so |h·w_v − a·H·p_v| ≤ ‖h‖·residual_v + ‖e‖·norm_v, and ‖a·H‖ ≤ ‖h‖ + ‖e‖.
//   |L_v − h·w_v| ≤ γ·‖h‖·norm_v + k·2⁻¹⁴⁹: a product goes through its own rounding, at most ⌈k/16⌉ − 1 additions of its lane and 4 of
//   the tree, so γ = m·u / (1 − m·u) with m = ⌈k/16⌉ + 4; products may underflow by 2⁻¹⁵⁰ each, additions are exact there.
//   S_v, computed as (a·(255·f32(Σ q·high) + f32(Σ q·low)))·s_v from exact integers, is within 8u·M·norm_v of a·H·p_v, where
//   M = a·(255·‖high‖ + ‖low‖) bounds both parts by Cauchy and Schwarz: six roundings. The low halves add a product of the same kind
//   with (p' − p)_v, whose norm is at most 2·norm_v: 16u·M·norm_v more, and a rounding of the sum. S_v + b_v rounds once more, by at
//   most u·(|S_v| + b_v). 32u·M·norm_v covers all; underflow of a·(…) costs 2⁻¹⁵⁰·s_v ≤ 2⁻¹⁴⁹·norm_v, of a last product 2⁻¹⁵⁰.
//   So b_v = c_r·residual_v + c_n·norm_v + c with c_r = ‖h‖, c_n = ‖e‖ + γ·‖h‖ + 32u·M + 2⁻¹⁴⁷, c = (k + 16)·2⁻¹⁴⁹. The factors
//   are formed in double and enlarged by 2⁻²⁰, sixteen times what forming b_v in float32 can lose.
// One output waits for memory while both products are formed; several together wait for the products. Theirs are of the high halves
// alone, as though low were 0, where that leaves an ‖e‖ which is small beside the residuals: it costs some more rows in refine. Only
// where the best token is wanted, though: many candidates leave so many rows that looser bounds cost more than products.
// Where h is not finite, nearly zero, or so large that something could overflow, the bounds are +∞.
#pragma once

#include <cstring>

#include "generic/logits.h"

namespace tritium {
namespace {

constexpr int32_t kGreatestCode = 32512;       // 255·127 + 127
constexpr int64_t kSharingOutputs = 3;         // so many together wait for products
constexpr double kSmallErrorSquare = 0x1p-12;  // of ‖e‖ ≤ ‖h‖/64; the high halves of normal rows leave 7/64 of their norm

// A number not below x ≥ 0, a sixteenth of a millionth above it at most where it is normal.
inline float above(double x) { return static_cast<float>(x * (1.0 + 0x1p-20)) + 0x1p-149f; }

using floats8 = float __attribute__((vector_size(32)));
using ints8 = int32_t __attribute__((vector_size(32)));
using words8 = uint32_t __attribute__((vector_size(32)));
using bytes8 = int8_t __attribute__((vector_size(8)));
using doubles8 = double __attribute__((vector_size(64)));

// One output's hidden state as integers, and the factors of its bounds. `low` is 0, and forms no sums, unless `has_low`.
struct Probe {
  int8_t* high;
  int8_t* low;
  int32_t total_high, total_low;
  float unit, residual_factor, norm_factor, constant;
  int64_t output;
  bool bounded, has_low;
};

// Sums over the columns, eight at a time.
struct ProbeSums {
  doubles8 square, error_square, high_error_square;
  ints8 high_square, low_square, total_high, total_low;
};

// Eight columns of h; zeros behind the k-th.
[[gnu::always_inline]] inline void load_columns(const float* h, int64_t i, int64_t k, void* x) {
  if (k - i >= 8) {
    std::memcpy(x, h + i, sizeof(floats8));
    return;
  }
  std::memset(x, 0, sizeof(floats8));
  std::memcpy(x, h + i, static_cast<size_t>(k - i) * sizeof(float));
}

// Codes columns i … i + 8. Adding 1.5·2²³ leaves no bit behind the point: round half to even. No 255th of an integer lies so near a
// half that the rounding of the product with 1/255 matters.
[[gnu::always_inline]] inline void code_columns(const Probe& probe, ProbeSums& sums, const floats8& x, int64_t i, float inverse) {
  const float magic = 12582912.0f;
  const floats8 code = (x * inverse + magic) - magic, high = (code * (1.0f / 255.0f) + magic) - magic, low = code - 255.0f * high;
  const double unit = probe.unit;
  const doubles8 exact = __builtin_convertvector(x, doubles8);
  const doubles8 error = exact - unit * __builtin_convertvector(code, doubles8);
  const doubles8 high_error = exact - (255.0 * unit) * __builtin_convertvector(high, doubles8);
  const ints8 high_code = __builtin_convertvector(high, ints8), low_code = __builtin_convertvector(low, ints8);
  sums.square += exact * exact;
  sums.error_square += error * error;
  sums.high_error_square += high_error * high_error;
  sums.high_square += high_code * high_code;
  sums.low_square += low_code * low_code;
  sums.total_high += high_code;
  sums.total_low += low_code;
  const bytes8 high_bytes = __builtin_convertvector(high_code, bytes8), low_bytes = __builtin_convertvector(low_code, bytes8);
  std::memcpy(probe.high + i, &high_bytes, sizeof high_bytes);
  std::memcpy(probe.low + i, &low_bytes, sizeof low_bytes);
}

[[gnu::always_inline]] inline double total(const doubles8& x) {
  return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}
[[gnu::always_inline]] inline int32_t total(const ints8& x) {
  return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

// Integers of h into probe.high and probe.low, zeros up to `padded`, a multiple of 8. Squares of int8 in an eighth of k ≤ 2¹⁶ columns
// add up to less than 2³¹ in all.
inline void set_probe(Probe& probe, const float* h, int64_t k, int64_t padded, float greatest_norm, bool is_shared) {
  probe.bounded = false;
  words8 tops = {};
  for (int64_t i = 0; i < k; i += 8) {
    words8 bits;
    load_columns(h, i, k, &bits);
    bits &= 0x7FFFFFFFu;
    tops = bits > tops ? bits : tops;
  }
  uint32_t top = 0;
  for (int i = 0; i < 8; ++i) top = tops[i] > top ? tops[i] : top;
  float greatest;
  std::memcpy(&greatest, &top, 4);
  if (top >= 0x7F800000u || greatest < 0x1p-100f) return;
  probe.unit = greatest / static_cast<float>(kGreatestCode);
  const float inverse = static_cast<float>(kGreatestCode) / greatest;
  ProbeSums sums = {};
  for (int64_t i = 0; i < k; i += 8) {
    floats8 x;
    load_columns(h, i, k, &x);
    code_columns(probe, sums, x, i, inverse);
  }
  const int64_t coded = (k + 7) & ~int64_t{7};
  std::memset(probe.high + coded, 0, static_cast<size_t>(padded - coded));
  const double square = total(sums.square), high_error_square = total(sums.high_error_square);
  probe.has_low = !(is_shared && high_error_square <= kSmallErrorSquare * square);
  if (probe.has_low) {
    std::memset(probe.low + coded, 0, static_cast<size_t>(padded - coded));
  } else {
    std::memset(probe.low, 0, static_cast<size_t>(padded));
  }
  const double norm = __builtin_sqrt(square);
  const double error = __builtin_sqrt(probe.has_low ? total(sums.error_square) : high_error_square);
  const double low_norm = probe.has_low ? __builtin_sqrt(static_cast<double>(total(sums.low_square))) : 0.0;
  const double m = static_cast<double>((k + 15) / 16 + 4) * 0x1p-24, gamma = m / (1.0 - m);
  const double parts = static_cast<double>(probe.unit) * (255.0 * __builtin_sqrt(static_cast<double>(total(sums.high_square))) + low_norm);
  // ‖q‖ ≤ 15·√k < 2¹² bounds what stands before the multiplication by s_v.
  const double size = (norm + error) + parts;
  if (!(size * greatest_norm < 0x1p120 && size < 0x1p105)) return;
  probe.total_high = total(sums.total_high);
  probe.total_low = probe.has_low ? total(sums.total_low) : 0;
  probe.residual_factor = above(norm);
  probe.norm_factor = above(error + gamma * norm + 0x1p-19 * parts) + 0x1p-147f;
  probe.constant = static_cast<float>(k + 16) * 0x1p-149f;
  probe.bounded = true;
}

// Hidden states of some outputs as integers, in the scratch memory: rows of one half each, the high ones followed by their low ones.
struct Probes {
  static constexpr int64_t kMost = 32;
  Probe probes[kMost];
  int8_t* codes;
  int64_t padded;    // columns, for whole blocks of either half
  int64_t together;  // as many as the scratch memory holds beside a list of rows
};

inline void place_probes(Probes& p, const Call& call, const PlaneLayout& layout, int64_t reserved) {
  p.padded = 128 * layout.low_blocks;
  const int64_t room = 4 * (call.scratch_floats - reserved) / (2 * p.padded);
  p.together = room < Probes::kMost ? room : Probes::kMost;
  p.codes = reinterpret_cast<int8_t*>(call.scratch + reserved);
}

// One output's probe, whose rows begin at `codes`. Refine lowers bounds that screen formed of the same integers.
inline void place_probe(Probe& probe, const Call& call, const Operand& hidden, int64_t output, const Probes& p, int8_t* codes, float most) {
  probe.high = codes;
  probe.low = codes + p.padded;
  probe.output = output;
  const bool is_shared = call.t >= kSharingOutputs && call.batch.top_k <= 1 && call.batch.temperatures == nullptr;
  set_probe(probe, hidden.row<const float>(output), call.weights[0].cols, p.padded, most, is_shared);
}

inline float greatest_norm(const Resident& plane, const PlaneLayout& layout) {
  float norm;
  std::memcpy(&norm, plane.data + layout.greatest_norm, 4);
  return norm;
}

// Estimates and upper bounds of a panel's rows for one output, from the integer sums of its probe and from what lies behind the codes;
// −∞ for the rows from n_rows on.
inline void bound_rows(const Probe& probe, const int32_t* high, const int32_t* low, const float* rows, int64_t n_rows, float* score,
                       float* upper) {
  const float none = -__builtin_inff();
  alignas(64) float both[kPanelRows];
  for (int64_t r = 0; r < kPanelRows; ++r) {
    both[r] = 255.0f * static_cast<float>(2 * high[r] - 15 * probe.total_high) + static_cast<float>(2 * low[r] - 15 * probe.total_low);
  }
  const lanes estimate = (splat(probe.unit) * load(both)) * load(rows);
  const lanes residual = load(rows + kPanelRows), norm = load(rows + 2 * kPanelRows);
  const lanes bound = (splat(probe.residual_factor) * residual + splat(probe.norm_factor) * norm) + splat(probe.constant);
  store(score, keep_first(estimate, n_rows, none));
  store(upper, keep_first(estimate + bound, n_rows, none));
}

// Sums of a panel's codes with n rows of activations: N of them at a time, then the rest N / 2 at a time.
template <int N>
inline void sum_panel(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int64_t n, int32_t* sums) {
  for (; n >= N; n -= N, a += N * stride, sums += N * kPanelRows) panel_sums<N>(panel, n_blocks, a, stride, sums);
  if constexpr (N > 1) sum_panel<N / 2>(panel, n_blocks, a, stride, n, sums);
}

// One panel, whose first row is `row`, for n probes with `n_halves` rows of activations.
inline void bound_panel(const Probes& p, int64_t n, int64_t n_halves, const Call& call, const PlaneLayout& layout, int64_t row) {
  constexpr int32_t kNothing[kPanelRows] = {};
  const Resident& plane = call.weights[0];
  const uint8_t* panel = plane.data + row / kPanelRows * layout.high_panel;
  const int64_t n_rows = plane.rows - row < kPanelRows ? plane.rows - row : kPanelRows;
  alignas(64) int32_t sums[2 * Probes::kMost * kPanelRows];
  alignas(64) float rows[3 * kPanelRows];
  sum_panel<kHalvesTogether>(panel, layout.high_blocks, p.codes, p.padded, n_halves, sums);
  std::memcpy(rows, panel + 64 * layout.high_blocks, sizeof rows);
  const int32_t* high = sums;
  for (int64_t i = 0; i < n; ++i) {
    const Probe& probe = p.probes[i];
    const int32_t* low = high + kPanelRows;
    float *score = call.out[0].row<float>(probe.output) + row, *upper = call.out[1].row<float>(probe.output) + row;
    bound_rows(probe, high, probe.has_low ? low : kNothing, rows, n_rows, score, upper);
    high = probe.has_low ? low + kPanelRows : low;
  }
}

// An output without bounds: estimates of 0 that may be anything.
inline void leave_unbounded(const Call& call, int64_t output, int64_t begin, int64_t end) {
  const float none = -__builtin_inff();
  for (int64_t row = begin * kPanelRows; row < end * kPanelRows; row += kPanelRows) {
    const int64_t left = call.weights[0].rows - row, n_rows = left < kPanelRows ? left : kPanelRows;
    store(call.out[0].row<float>(output) + row, keep_first(splat(0.0f), n_rows, none));
    store(call.out[1].row<float>(output) + row, keep_first(splat(__builtin_inff()), n_rows, none));
  }
}

// Reads the high halves of each panel of the range from memory once for as many outputs as the scratch memory holds.
KERNEL_FUNCTION(screen_plane44) {
  const Resident& plane = call.weights[0];
  const PlaneLayout layout(plane.rows, plane.cols);
  const float most = greatest_norm(plane, layout);
  Probes p;
  place_probes(p, call, layout, 0);
  for (int64_t start = 0; start < call.t; start += p.together) {
    const int64_t stop = call.t - start < p.together ? call.t : start + p.together;
    int64_t n = 0, n_halves = 0;
    for (int64_t output = start; output < stop; ++output) {
      Probe& probe = p.probes[n];
      place_probe(probe, call, call.in[0], output, p, p.codes + n_halves * p.padded, most);
      if (!probe.bounded) {
        leave_unbounded(call, output, begin, end);
        continue;
      }
      n += 1;
      n_halves += probe.has_low ? 2 : 1;
    }
    if (n == 0) continue;
    for (int64_t unit = begin; unit < end; ++unit) bound_panel(p, n, n_halves, call, layout, unit * kPanelRows);
    const int64_t n_rows = (end * kPanelRows < plane.rows ? end * kPanelRows : plane.rows) - begin * kPanelRows;
    work.macs += static_cast<uint64_t>(n * n_rows * plane.cols);
    work.bytes += static_cast<uint64_t>((end - begin) * layout.high_panel);
  }
}

constexpr int64_t kListRows = 1 << 13;  // rows of the vocabulary whose survivors are listed at once

constexpr int64_t kRefinedAhead = 4;    // asked for while a row's codes are summed

// The rows of [from, to) whose upper bound is not below `least`, ascending. A row of bounds begins at a multiple of 16.
inline int64_t list_rows(const float* upper, int64_t from, int64_t to, float least, int32_t* rows) {
  int64_t n = 0;
  for (int64_t i = from; i < to; i += 16) {
    const int64_t width = to - i < 16 ? to - i : 16;
    const uint32_t out = greater(splat(least), width < 16 ? load_first(upper + i, width) : load(upper + i));
    for (uint32_t in = ~out & ((1u << width) - 1u); in != 0; in &= in - 1) rows[n++] = static_cast<int32_t>(i + __builtin_ctz(in));
  }
  return n;
}

// A better upper bound of one row, whose low halves and what belongs to them lie at `codes` and `tail`.
inline float refined(const Probe& probe, const uint8_t* codes, const uint8_t* tail, int64_t n_blocks, float score) {
  int32_t high, low;
  float row[3];
  row_sums(codes, n_blocks, probe.high, probe.low, &high, &low);
  std::memcpy(row, tail, sizeof row);
  const float sum = 255.0f * static_cast<float>(2 * high - 15 * probe.total_high) + static_cast<float>(2 * low - 15 * probe.total_low);
  const float bound = (probe.residual_factor * row[1] + probe.norm_factor * row[2]) + probe.constant;
  return (score + (probe.unit * sum) * row[0]) + bound;
}

// Reads the low halves of the rows that an output's threshold leaves, for each output that has bounds.
KERNEL_FUNCTION(refine_plane44) {
  const Resident& plane = call.weights[0];
  const PlaneLayout layout(plane.rows, plane.cols);
  const float most = greatest_norm(plane, layout);
  int32_t* rows = reinterpret_cast<int32_t*>(call.scratch);
  Probes p;
  place_probes(p, call, layout, kListRows);
  Probe& probe = p.probes[0];
  const int64_t last = end * kPanelRows < plane.rows ? end * kPanelRows : plane.rows;
  const auto code_row = [&](int64_t row) __attribute__((always_inline)) {
    return plane.data + layout.low_begin + row / kPanelRows * layout.low_panel + row % kPanelRows * layout.low_row;
  };
  const auto tail_of = [&](int64_t row) __attribute__((always_inline)) {
    return plane.data + layout.low_begin + row / kPanelRows * layout.low_panel + kPanelRows * layout.low_row + 16 * (row % kPanelRows);
  };
  const auto ask_for = [&](int64_t row) __attribute__((always_inline)) {
    const uint8_t* codes = code_row(row);
    for (int64_t line = 0; line < layout.low_row; line += 64) __builtin_prefetch(codes + line, 0, 2);
    __builtin_prefetch(tail_of(row), 0, 2);
  };
  for (int64_t r = 0; r < call.t; ++r) {
    float* upper = call.in[0].row<float>(r);
    const float *score = call.in[2].row<const float>(r), least = call.in[3].row<const float>(r)[1];
    bool is_set = false;
    int64_t n_read = 0;
    for (int64_t from = begin * kPanelRows; from < last; from += kListRows) {
      const int64_t n = list_rows(upper, from, from + kListRows < last ? from + kListRows : last, least, rows);
      if (n != 0 && !is_set) {
        place_probe(probe, call, call.in[1], r, p, p.codes, most);
        is_set = true;
        if (!probe.bounded) break;
      }
      for (int64_t i = 0; i < n && i < kRefinedAhead; ++i) ask_for(rows[i]);
      for (int64_t i = 0; i < n; ++i) {
        if (i + kRefinedAhead < n) ask_for(rows[i + kRefinedAhead]);
        upper[rows[i]] = refined(probe, code_row(rows[i]), tail_of(rows[i]), layout.low_blocks, score[rows[i]]);
      }
      n_read += n;
    }
    if (is_set && !probe.bounded) continue;
    work.macs += static_cast<uint64_t>(n_read * plane.cols);
    work.macs_skipped += static_cast<uint64_t>((last - begin * kPanelRows - n_read) * plane.cols);
    work.bytes += static_cast<uint64_t>(n_read * (layout.low_row + 16));
  }
}

}  // namespace
}  // namespace tritium
