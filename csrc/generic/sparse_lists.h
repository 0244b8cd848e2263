// Lists of what is not zero, for units without a compress of their own.
#pragma once

#include <cstdint>

namespace tritium {
namespace {

// The indices in [first, last) of numbers above 0; a NaN is not.
inline int64_t append_positive(const float* x, int64_t first, int64_t last, int32_t* list) {
  int64_t n = 0;
  for (int64_t i = first; i < last; ++i) {
    list[n] = static_cast<int32_t>(i);
    n += x[i] > 0.0f;
  }
  return n;
}
inline int64_t append_nonzero(const int8_t* q, int64_t first, int64_t last, int32_t* list) {
  int64_t n = 0;
  for (int64_t i = first; i < last; ++i) {
    list[n] = static_cast<int32_t>(i);
    n += q[i] != 0;
  }
  return n;
}

}  // namespace
}  // namespace tritium
