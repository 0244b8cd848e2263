// Integer products of a head plane, in plain C++.
#pragma once

#include <cstdint>

namespace tritium {
namespace {

constexpr int kHalvesTogether = 2;

// Σ c·a over the codes c of 4 bits of a panel's sixteen rows, for N rows of activations `stride` apart. Writes sums[N][16];
// |Σ| ≤ 15·128·k < 2³¹ for k ≤ 2¹⁶.
template <int N>
inline void panel_sums(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32_t* sums) {
  for (int i = 0; i < N * 16; ++i) sums[i] = 0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    for (int r = 0; r < 16; ++r) {
      const uint8_t* c = panel + 64 * j + 4 * r;
      for (int i = 0; i < N; ++i) {
        const int8_t* x = a + i * stride + 8 * j;
        for (int b = 0; b < 4; ++b) sums[16 * i + r] += (c[b] & 15) * x[b] + (c[b] >> 4) * x[b + 4];
      }
    }
  }
}

// Σ c·high and Σ c·low over the codes of one row of low halves, with the same bound.
inline void row_sums(const uint8_t* row, int64_t n_blocks, const int8_t* high, const int8_t* low, int32_t* sum_high,
                     int32_t* sum_low) {
  int32_t h = 0, l = 0;
  for (int64_t j = 0; j < n_blocks; ++j) {
    const uint8_t* c = row + 64 * j;
    const int8_t *x = high + 128 * j, *y = low + 128 * j;
    for (int b = 0; b < 64; ++b) {
      h += (c[b] & 15) * x[b] + (c[b] >> 4) * x[b + 64];
      l += (c[b] & 15) * y[b] + (c[b] >> 4) * y[b + 64];
    }
  }
  *sum_high = h;
  *sum_low = l;
}

}  // namespace
}  // namespace tritium
