// relu2_mul, silu_mul, output_rows: element by element.
#pragma once

#include "kernel.h"

namespace tritium {
namespace {

// (r·r)·up, r = gate where gate > 0, else +0. Reads no resident bytes.
KERNEL_FUNCTION(relu2_mul) {
  (void)work;
  const int64_t k = call.ints[0];
  for (int64_t row = begin; row < end; ++row) {
    const float* gate = call.in[0].row<const float>(row);
    const float* up = call.in[1].row<const float>(row);
    float* y = call.out[0].row<float>(row);
    for (int64_t i = 0; i < k; i += 16) {
      const lanes r = max(load(gate + i), splat(0.0f));
      store(y + i, (r * r) * load(up + i));
    }
  }
}

// (gate / (1 + exp(−gate)))·up. Reads no resident bytes.
KERNEL_FUNCTION(silu_mul) {
  (void)work;
  const int64_t k = call.ints[0];
  for (int64_t row = begin; row < end; ++row) {
    const float* gate = call.in[0].row<const float>(row);
    const float* up = call.in[1].row<const float>(row);
    float* y = call.out[0].row<float>(row);
    for (int64_t i = 0; i < k; i += 16) {
      const lanes g = load(gate + i);
      const lanes divisor = splat(1.0f) + exp(splat(-1.0f) * g);
      store(y + i, (g / divisor) * load(up + i));
    }
  }
}

// Row r of the outputs is row outputs[r] of the tokens. Reads no resident bytes.
KERNEL_FUNCTION(output_rows) {
  (void)work;
  const int64_t k = call.ints[0];
  for (int64_t row = begin; row < end; ++row) {
    const float* x = call.in[0].row<const float>(call.batch.outputs[row]);
    float* y = call.out[0].row<float>(row);
    for (int64_t i = 0; i < k; i += 16) store(y + i, load(x + i));
  }
}

}  // namespace
}  // namespace tritium
