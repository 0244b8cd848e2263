// The canonical logits of few rows of a head: those that screen.h leaves.
#pragma once

#include "generic/exp.h"
#include "generic/screen.h"
#include "generic/select.h"

namespace tritium {
namespace {

// With a temperature T: weights beyond e^−16 of the best are left to their bounds, and bounds of such beyond e^−40 are good enough.
constexpr float kReach = 16.0f, kFarReach = 40.0f;
constexpr int64_t kBestRows = 8;  // among which the best is expected

// Writes the thresholds of rescore and refine. Reads the rows of the k greatest estimates, or with a temperature the best of them.
// A threshold that is NaN leaves every row, as do bounds of +∞.
template <class Rows>
inline void threshold(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& table = call.weights[0];
  const int64_t k = call.batch.top_k, bytes = row_bytes<Rows>(table.cols);
  float* values = call.scratch;
  int32_t* ids = reinterpret_cast<int32_t*>(call.scratch + k);
  for (int64_t r = begin; r < end; ++r) {
    const float* h = call.in[0].row<const float>(r);
    const float temperature = call.batch.temperatures != nullptr ? call.batch.temperatures[r] : 0.0f;
    choose(call.in[1].row<const float>(r), table.rows, k, values, ids);
    const int64_t n = temperature > 0 && k > kBestRows ? kBestRows : k;
    float least = __builtin_inff(), most = -__builtin_inff();
    for (int64_t i = 0; i < n; ++i) {
      float logit;
      const uint8_t* ahead = table.data + ids[i + 1 < n ? i + 1 : i] * bytes;
      project<Rows, 1, 1>(table.data + ids[i] * bytes, bytes, table.cols, h, 0, &logit, 0, ahead);
      least = logit < least ? logit : least;
      most = logit > most ? logit : most;
    }
    float far = least;
    if (temperature > 0) {
      const float near = most - kReach * temperature;
      least = values[k - 1] > near ? values[k - 1] : near;
      least = least < most ? least : most;
      far = most - kFarReach * temperature;
      far = far < least ? far : least;
    }
    call.out[0].row<float>(r)[0] = least;
    call.out[0].row<float>(r)[1] = far;
    work.macs += static_cast<uint64_t>(n * table.cols);
    work.bytes += static_cast<uint64_t>(n * bytes);
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

struct Weights {
  double known = 0, all = 0;
};

// Σ exp((x − best) / T) of x[0, n), in pieces of 1024 whose sums are the profile's: of what is above −∞, and of all with `bounds` in the
// place of what is not, unless null.
inline Weights sum_weights(const float* x, const float* bounds, int64_t n, float best_value, float temperature) {
  const lanes none = splat(-__builtin_inff()), best = splat(best_value), divisor = splat(temperature);
  Weights w;
  for (int64_t piece = 0; piece < n; piece += 1024) {
    const int64_t end = n - piece < 1024 ? n : piece + 1024;
    lanes known = splat(0.0f), all = splat(0.0f);
    for (int64_t i = piece; i < end; i += 16) {
      const int64_t width = end - i < 16 ? end - i : 16;
      const lanes l = width < 16 ? load_first(x + i, width) : load(x + i);
      const lanes weight = keep_first(exp((l - best) / divisor), width, 0.0f);
      known = known + weight;
      const uint32_t is_known = greater(l, none);
      if (bounds == nullptr || is_known == 0xFFFFu) {
        all = all + weight;
        continue;
      }
      alignas(64) float either[16];
      store(either, l);
      for (int64_t j = 0; j < width; ++j) either[j] = (is_known >> j & 1) != 0 ? either[j] : bounds[i + j];
      all = all + keep_first(exp((load(either) - best) / divisor), width, 0.0f);
    }
    w.known += static_cast<double>(tree_sum(known));
    w.all += static_cast<double>(tree_sum(all));
  }
  return w;
}

// Bounds of the weight of all ids that are no candidates, as multiples of the best one's, and how many candidates are sure to be the best
// of all logits. A logit that rescore left out is below its threshold, so candidates are sure down to it, whatever it is; its weight is
// between 0 and that of its upper bound. Weights are within 2⁻¹⁵ of exact ones: exp within 2 ulp, its argument, above −88, within 3
// roundings, sums of 64 additions.
KERNEL_FUNCTION(tail_weights) {
  (void)work;
  constexpr double kSlack = 0x1p-14;
  for (int64_t r = begin; r < end; ++r) {
    float* out = call.out[0].row<float>(r);
    const float temperature = call.batch.temperatures != nullptr ? call.batch.temperatures[r] : 0.0f;
    out[0] = out[1] = out[2] = 0.0f;
    if (!(temperature > 0)) continue;
    const float *values = call.in[4].row<const float>(r), least = *call.in[2].row<const float>(r);
    int64_t n = 0;
    while (n < call.batch.top_k && values[n] > -__builtin_inff() && !(call.batch.is_screened && values[n] < least)) ++n;
    const float* bounds = call.batch.is_screened ? call.in[1].row<const float>(r) : nullptr;
    const Weights w = sum_weights(call.in[0].row<const float>(r), bounds, call.ints[0], values[0], temperature);
    const double listed = sum_weights(values, nullptr, n, values[0], temperature).known;
    const double most = w.all * (1.0 + kSlack) - listed * (1.0 - kSlack), fewest = w.known * (1.0 - kSlack) - listed * (1.0 + kSlack);
    out[0] = most > 0 ? above(most) : most == most ? 0.0f : __builtin_inff();
    out[1] = fewest > 0 ? static_cast<float>(fewest * (1.0 - 0x1p-20)) : 0.0f;
    out[2] = static_cast<float>(n);
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
