// What stands behind the last column of a float32 row.
#pragma once

#include "kernel.h"

namespace tritium {
namespace {

// Zero the columns from `width` to the next multiple of 16, which sums over whole vectors read.
inline void zero_padding(float* row, int64_t width) {
  for (; width % kLanes != 0; ++width) row[width] = 0.0f;
}

}  // namespace
}  // namespace tritium
