// The baseline of every architecture: standard C++ only. Correct and reasonable, not tuned.
#include "generic/lanes_scalar.h"

#define TRITIUM_ROW_scalar 1
#include "generic/kernel_names.h"

#include "generic/attention.h"
#include "generic/embedding.h"
#include "generic/glu.h"
#include "generic/logits.h"
#include "generic/norm.h"
#include "generic/panels.h"
#include "generic/rope.h"
#include "generic/select.h"

namespace tritium {
namespace {

// Σ code·a of the sixteen rows of a panel, minus Σ a. |Σ code·a| ≤ 256·K, which int32 holds for K < 2²³.
void panel_product(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int32_t* acc) {
  int32_t total = 0;
  for (int r = 0; r < kPanelRows; ++r) acc[r] = 0;
  for (int64_t b = 0; b < n_blocks; ++b) {
    const uint8_t* block = panel + kPanelBlockBytes * b;
    const int8_t* x = a + kPanelDepth * b;
    for (int r = 0; r < kPanelRows; ++r) {
      for (int i = 0; i < kPanelDepth; ++i) acc[r] += ((block[4 * r + i % 4] >> (2 * (i / 4))) & 3) * x[i];
    }
    for (int i = 0; i < kPanelDepth; ++i) total += x[i];
  }
  for (int r = 0; r < kPanelRows; ++r) acc[r] -= total;
}

// Reads each panel once a token.
void linear(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Panels panels(call.weights[0]);
  const bool accumulate = call.ints[4] != 0;
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t t = 0; t < call.t; ++t) {
      int32_t acc[kPanelRows];
      panel_product(panels.panel(p), panels.n_blocks, call.in[0].row<const int8_t>(t), acc);
      const float scale = *call.in[1].row<const float>(t) * panels.scales[p];
      float* out = call.out[0].row<float>(t) + kPanelRows * p;
      for (int r = 0; r < kPanelRows; ++r) {
        const float y = static_cast<float>(acc[r]) * scale;
        out[r] = accumulate ? out[r] + y : y;
      }
    }
  }
  count_linear(call, begin, end, work);
}

KERNEL_FUNCTION(i2s_gemv) { linear(call, begin, end, work); }
KERNEL_FUNCTION(i2s_gemm) { linear(call, begin, end, work); }

}  // namespace
}  // namespace tritium

#include "generic/kernel_table.h"
