// Integer products of a panel of a head plane, in plain C++.
#pragma once

#include <cstdint>

namespace tritium {
namespace {

// Σ q·high and Σ q·low for the sixteen rows of a panel: |Σ| ≤ 128·127·k < 2³¹ for k ≤ 2¹⁶.
inline void plane_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t, int32_t,
                       int32_t* sums_high, int32_t* sums_low) {
  for (int r = 0; r < 16; ++r) sums_high[r] = sums_low[r] = 0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    const int8_t *x = high + 4 * j, *y = low + 4 * j;
    for (int r = 0; r < 16; ++r) {
      const uint8_t* q = panel + 64 * j + 4 * r;
      const int a = q[0] - 128, b = q[1] - 128, c = q[2] - 128, d = q[3] - 128;
      sums_high[r] += (a * x[0] + b * x[1]) + (c * x[2] + d * x[3]);
      sums_low[r] += (a * y[0] + b * y[1]) + (c * y[2] + d * y[3]);
    }
  }
}

}  // namespace
}  // namespace tritium
