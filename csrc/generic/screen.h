// screen and shortlist: the k greatest logits without reading the whole head, and exactly those that the whole head gives.
//
// screen bounds the canonical logit L_v = lane_sum(h·w_v) of every row from a plane of 8-bit rows p_v = s_v·q_v; shortlist computes L_v
// itself for the rows whose upper bound reaches the k-th greatest lower bound τ. At least k rows have L ≥ τ, so a row among the k
// greatest has upper bound ≥ L_v ≥ τ and is rescored; ties are, too.
//
// The bound. u = 2⁻²⁴, H = 255·high + low the integers of h, a their unit, e = h − a·H.
//   h·w_v = a·H·p_v + a·H·(w_v − p_v) + e·w_v, so |h·w_v − a·H·p_v| ≤ ‖a·H‖·residual_v + ‖e‖·norm_v, and ‖a·H‖ ≤ ‖h‖ + ‖e‖.
//   |L_v − h·w_v| ≤ γ·‖h‖·norm_v + k·2⁻¹⁴⁹: a product goes through its own rounding, at most ⌈k/16⌉ − 1 additions of its lane and 4 of
//   the tree, so γ = m·u / (1 − m·u) with m = ⌈k/16⌉ + 4; products may underflow by 2⁻¹⁵⁰ each, additions are exact there.
//   S_v, computed as (a·(255·f32(Σ q·high) + f32(Σ q·low)))·s_v from exact integers, is within 8u·M·norm_v of a·H·p_v, where
//   M = a·(255·‖high‖ + ‖low‖) bounds both parts by Cauchy and Schwarz: six roundings. S_v ± b_v rounds once more, by at most
//   u·(|S_v| + b_v). 16u·M·norm_v covers both; underflow of a·(…) costs 2⁻¹⁵⁰·s_v ≤ 2⁻¹⁴⁹·norm_v, of the last product 2⁻¹⁵⁰.
//   So b_v = c_r·residual_v + c_n·norm_v + c with c_r = ‖h‖ + ‖e‖, c_n = ‖e‖ + γ·‖h‖ + 16u·M + 2⁻¹⁴⁸, c = (k + 16)·2⁻¹⁴⁹. The factors
//   are formed in double and enlarged by 2⁻²⁰, sixteen times what forming b_v in float32 can lose.
// Where h is not finite, nearly zero, or so large that something could overflow, the bounds are −∞ and +∞.
#pragma once

#include <cstring>

#include "generic/logits.h"
#include "generic/select.h"

namespace tritium {
namespace {

constexpr int64_t kPlaneRows = 16;
constexpr int32_t kGreatestCode = 32512;  // 255·127 + 127

// A number not below x ≥ 0, a sixteenth of a millionth above it at most where it is normal.
inline float above(double x) { return static_cast<float>(x * (1.0 + 0x1p-20)) + 0x1p-149f; }

// One output's hidden state as integers, and the factors of its bounds.
struct Probe {
  int8_t* high;
  int8_t* low;
  int32_t total_high, total_low;
  float unit, residual_factor, norm_factor, constant;
  bool bounded;
};

// Integers of h into probe.high and probe.low, zeros up to `padded`.
inline void set_probe(Probe& probe, const float* h, int64_t k, int64_t padded, float greatest_norm) {
  probe.bounded = false;
  uint32_t top = 0;
  for (int64_t i = 0; i < k; ++i) {
    uint32_t bits;
    std::memcpy(&bits, h + i, 4);
    bits &= 0x7FFFFFFFu;
    top = bits > top ? bits : top;
  }
  float greatest;
  std::memcpy(&greatest, &top, 4);
  if (top >= 0x7F800000u || greatest < 0x1p-100f) return;
  const float unit = greatest / static_cast<float>(kGreatestCode), inverse = static_cast<float>(kGreatestCode) / greatest;
  double square = 0, error_square = 0;
  int64_t high_square = 0, low_square = 0;
  int32_t total_high = 0, total_low = 0;
  for (int64_t i = 0; i < k; ++i) {
    // Adding 1.5·2²³ leaves no bit behind the point: round half to even.
    const int32_t code = static_cast<int32_t>((h[i] * inverse + 12582912.0f) - 12582912.0f);
    const int32_t high = (code + 127 + 255 * 128) / 255 - 128, low = code - 255 * high;
    const double exact = h[i], error = exact - static_cast<double>(unit) * code;
    square += exact * exact;
    error_square += error * error;
    high_square += high * high;
    low_square += low * low;
    total_high += high;
    total_low += low;
    probe.high[i] = static_cast<int8_t>(high);
    probe.low[i] = static_cast<int8_t>(low);
  }
  std::memset(probe.high + k, 0, static_cast<size_t>(padded - k));
  std::memset(probe.low + k, 0, static_cast<size_t>(padded - k));
  const double norm = __builtin_sqrt(square), error = __builtin_sqrt(error_square);
  const double m = static_cast<double>((k + 15) / 16 + 4) * 0x1p-24, gamma = m / (1.0 - m);
  const double parts = static_cast<double>(unit) * (255.0 * __builtin_sqrt(static_cast<double>(high_square)) +
                                                    __builtin_sqrt(static_cast<double>(low_square)));
  // ‖q‖ ≤ 127·√k < 2¹⁵ bounds what stands before the multiplication by s_v.
  const double size = (norm + error) + parts;
  if (!(size * greatest_norm < 0x1p120 && size < 0x1p105)) return;
  probe.total_high = total_high;
  probe.total_low = total_low;
  probe.unit = unit;
  probe.residual_factor = above(norm + error);
  probe.norm_factor = above(error + gamma * norm + 0x1p-20 * parts) + 0x1p-148f;
  probe.constant = static_cast<float>(k + 16) * 0x1p-149f;
  probe.bounded = true;
}

// The bounds of one panel's rows for one output; −∞ for the rows from n_rows on.
inline void bound_panel(const Probe& probe, const uint8_t* panel, int64_t n_blocks, int64_t n_rows, float* lower, float* upper) {
  const float infinity = __builtin_inff();
  int32_t high[kPlaneRows], low[kPlaneRows];
  float rows[3][kPlaneRows];
  if (probe.bounded) {
    plane_sums(panel, n_blocks, probe.high, probe.low, probe.total_high, probe.total_low, high, low);
    std::memcpy(rows, panel + 64 * n_blocks, sizeof rows);
  }
  for (int64_t r = 0; r < kPlaneRows; ++r) {
    if (!probe.bounded || r >= n_rows) {
      lower[r] = -infinity;
      upper[r] = r < n_rows ? infinity : -infinity;
      continue;
    }
    const float sum = 255.0f * static_cast<float>(high[r]) + static_cast<float>(low[r]);
    const float score = (probe.unit * sum) * rows[0][r];
    const float bound = (probe.residual_factor * rows[1][r] + probe.norm_factor * rows[2][r]) + probe.constant;
    lower[r] = score - bound;
    upper[r] = score + bound;
  }
}

// Reads each panel of the range once for as many outputs as the scratch memory holds.
KERNEL_FUNCTION(screen_plane8) {
  constexpr int64_t kMostOutputs = 32;
  const Resident& plane = call.weights[0];
  const int64_t n_blocks = (plane.cols + 3) / 4, padded = 4 * n_blocks;
  const int64_t panel_bytes = 64 * n_blocks + 3 * kPlaneRows * 4;
  float greatest_norm;
  std::memcpy(&greatest_norm, plane.data + (plane.rows + kPlaneRows - 1) / kPlaneRows * panel_bytes, 4);
  const int64_t room = 4 * call.scratch_floats / (2 * padded), together = room < kMostOutputs ? room : kMostOutputs;
  int8_t* codes = reinterpret_cast<int8_t*>(call.scratch);
  for (int64_t first = 0; first < call.t; first += together) {
    const int64_t n = call.t - first < together ? call.t - first : together;
    Probe probes[kMostOutputs];
    int64_t n_bounded = 0;
    for (int64_t i = 0; i < n; ++i) {
      probes[i].high = codes + 2 * i * padded;
      probes[i].low = probes[i].high + padded;
      set_probe(probes[i], call.in[0].row<const float>(first + i), plane.cols, padded, greatest_norm);
      n_bounded += probes[i].bounded;
    }
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit * kPlaneRows, n_rows = plane.rows - row < kPlaneRows ? plane.rows - row : kPlaneRows;
      const uint8_t* panel = plane.data + unit * panel_bytes;
      for (int64_t i = 0; i < n; ++i) {
        float *lower = call.out[0].row<float>(first + i) + row, *upper = call.out[1].row<float>(first + i) + row;
        bound_panel(probes[i], panel, n_blocks, n_rows, lower, upper);
      }
      work.macs += static_cast<uint64_t>(n_bounded * n_rows * plane.cols);
      if (n_bounded != 0) work.bytes += static_cast<uint64_t>(panel_bytes);
    }
  }
}

// The rows whose upper bound reaches `least`, ascending; more than `most` of them count as most + 1.
inline int64_t collect(const float* upper, int64_t vocab, float least, int32_t* rows, int64_t most) {
  int64_t n = 0;
  for (int64_t i = 0; i < vocab; i += 16) {
    const int64_t width = vocab - i < 16 ? vocab - i : 16;
    const uint32_t out = greater(splat(least), width < 16 ? load_first(upper + i, width) : load(upper + i));
    for (uint32_t in = ~out & ((1u << width) - 1u); in != 0; in &= in - 1) {
      if (n == most) return most + 1;
      rows[n++] = static_cast<int32_t>(i + __builtin_ctz(in));
    }
  }
  return n;
}

// Reads the rows that are left. Rows of the batch for which too many are left are unresolved: their candidates mean nothing.
template <class Rows>
inline void shortlist(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& table = call.weights[0];
  const int64_t cols = table.cols, k = call.batch.top_k, bytes = row_bytes<Rows>(cols);
  const int64_t room = call.scratch_floats / 2, share = table.rows / kScreenShare, most = share < room ? share : room;
  int32_t* rows = reinterpret_cast<int32_t*>(call.scratch);
  float* logits = call.scratch + room;
  for (int64_t r = begin; r < end; ++r) {
    const float* h = call.in[0].row<const float>(r);
    int32_t* ids = call.out[0].row<int32_t>(r);
    float* values = call.out[1].row<float>(r);
    choose(call.in[1].row<const float>(r), table.rows, k, values, ids);
    const int64_t n = collect(call.in[2].row<const float>(r), table.rows, values[k - 1], rows, most);
    if (n < k || n > most) {
      work.unresolved += 1;
      continue;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t next = i + 1 < n ? i + 1 : i;
      project<Rows, 1, 1>(table.data + rows[i] * bytes, bytes, cols, h, 0, logits + i, 0, table.data + rows[next] * bytes);
    }
    choose(logits, n, k, values, ids);
    for (int64_t i = 0; i < k; ++i) ids[i] = rows[ids[i]];
    work.macs += static_cast<uint64_t>(n * cols);
    work.macs_skipped += static_cast<uint64_t>((table.rows - n) * cols);
    work.bytes += static_cast<uint64_t>(n * bytes);
  }
}

KERNEL_FUNCTION(shortlist_f32) { shortlist<F32Rows>(call, begin, end, work); }
KERNEL_FUNCTION(shortlist_f16) { shortlist<F16Rows>(call, begin, end, work); }
KERNEL_FUNCTION(shortlist_bf16) { shortlist<Bf16Rows>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
