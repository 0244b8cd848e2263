// Sparse products in plain C++: correct, not tuned.
#pragma once

#include "generic/sparse_lists.h"
#include "kernel.h"

namespace tritium {
namespace {

constexpr bool kSumsNested = false;
constexpr bool kSumsStay = false;

inline int32_t sum_of_codes(const int8_t* q, int64_t k) {
  int32_t total = 0;
  for (int64_t i = 0; i < k; ++i) total += q[i];
  return total;
}

inline int32_t arrange(const int8_t* q, int64_t k, int8_t* a) {
  __builtin_memcpy(a, q, static_cast<size_t>(k));
  return sum_of_codes(q, k);
}

// Asks for nothing.
struct Listed {};

template <class Asks>
inline void multiply_rows(const uint8_t* w, int64_t row_bytes, const int32_t* rows, int64_t n, const int8_t* a, int32_t total,
                          float scale, float* out, Asks&) {
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t* row = w + rows[i] * row_bytes;
    int32_t sum = -total;
    for (int64_t b = 0; b < row_bytes; b += 32) {
      for (int64_t p = 0; p < 32; ++p) {
        const int8_t* x = a + 4 * b + p;
        const int32_t codes = row[b + p];
        sum += (codes >> 6) * x[0] + (codes >> 4 & 3) * x[32] + (codes >> 2 & 3) * x[64] + (codes & 3) * x[96];
      }
    }
    out[rows[i]] = static_cast<float>(sum) * scale;
  }
}

inline void add_column(const uint8_t* w, int64_t n_bytes, int32_t q, int32_t* sums) {
  for (int64_t b = 0; b < n_bytes; ++b) {
    const int32_t packed = w[b];
    int32_t* at = sums + b / 64 * kColumnRows + b / 4 % 4 * 16 + b / 16 % 4 * 4 + b % 4;
    at[0] += (packed & 3) * q;
    at[64] += (packed >> 2 & 3) * q;
    at[128] += (packed >> 4 & 3) * q;
    at[192] += (packed >> 6) * q;
  }
}
inline void add_columns(const uint8_t* w, int64_t column_bytes, const int32_t* columns, int64_t n, const int8_t* codes, int32_t* sums) {
  for (int64_t i = 0; i < n; ++i) add_column(w + columns[i] * column_bytes, column_bytes, codes[i], sums);
}
template <class Asks>
inline void add_near_columns(const uint8_t* w, int64_t n_bytes, const int32_t* offsets, int64_t n, const int8_t* codes, int32_t* sums,
                             Asks&) {
  for (int64_t i = 0; i < n; ++i) add_column(w + offsets[i], n_bytes, codes[i], sums);
}

}  // namespace
}  // namespace tritium
