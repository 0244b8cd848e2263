// The baseline of every architecture: vectors of the compiler's own, no intrinsics. Correct and reasonable, not tuned.
#include "generic/lanes_scalar.h"

#include <cstring>

#define TRITIUM_ROW_scalar 1
#include "generic/kernel_names.h"

#include "generic/attention.h"
#include "generic/embedding.h"
#include "generic/glu.h"
#include "generic/groups.h"
#include "generic/logits.h"
#include "generic/norm.h"
#include "generic/panels.h"
#include "generic/rope.h"
#include "generic/select.h"
#include "generic/plane_scalar.h"
#include "generic/rescore.h"
#include "generic/sparse_scalar.h"
#include "generic/sparse.h"
#include "generic/trits.h"

namespace tritium {
namespace {

// A quarter of a block as half words: the low byte of half word 2r + h holds the codes of its row r for k = 4j + 2h, the high byte for
// 4j + 2h + 1.
using halves = uint16_t __attribute__((vector_size(16)));
struct Quarters {
  halves a{}, b{}, c{}, d{};
};

// A half word adds eight products of at most 256 in magnitude a block: 16 blocks give −32768 … 32512, which int16 just holds.
constexpr int64_t kFlushBlocks = 16;

// sums += (the codes `shift` bits up in a block's half words) · (the two activations in turn).
[[gnu::always_inline]] inline void add_products(Quarters& sums, const Quarters& block, int shift, int8_t first, int8_t second) {
  const uint32_t pair = static_cast<uint16_t>(first) | static_cast<uint32_t>(static_cast<uint16_t>(second)) << 16;
  const halves x = reinterpret_cast<halves>(words{pair, pair, pair, pair});
  sums.a += ((block.a >> shift) & 3) * x;
  sums.b += ((block.b >> shift) & 3) * x;
  sums.c += ((block.c >> shift) & 3) * x;
  sums.d += ((block.d >> shift) & 3) * x;
}

// acc += Σ code·a of the sixteen rows of a panel. |Σ code·a| ≤ 256·K, which int32 holds for K < 2²³.
void add_product(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int32_t* acc) {
  for (int64_t b = 0; b < n_blocks;) {
    const int64_t stop = n_blocks - b < kFlushBlocks ? n_blocks : b + kFlushBlocks;
    Quarters sums;
    for (; b < stop; ++b) {
      Quarters block;
      std::memcpy(&block, panel + kPanelBlockBytes * b, kPanelBlockBytes);
      const int8_t* x = a + kPanelDepth * b;
      add_products(sums, block, 0, x[0], x[2]);
      add_products(sums, block, 8, x[1], x[3]);
      add_products(sums, block, 2, x[4], x[6]);
      add_products(sums, block, 10, x[5], x[7]);
      add_products(sums, block, 4, x[8], x[10]);
      add_products(sums, block, 12, x[9], x[11]);
      add_products(sums, block, 6, x[12], x[14]);
      add_products(sums, block, 14, x[13], x[15]);
    }
    int16_t pairs[2 * kPanelRows];
    std::memcpy(pairs, &sums, sizeof pairs);
    for (int r = 0; r < kPanelRows; ++r) acc[r] += pairs[2 * r] + pairs[2 * r + 1];
  }
}

inline void add_product(const Panels& panels, int64_t p, const int8_t* a, int32_t* acc) {
  add_product(panels.panel(p), panels.n_blocks, a, acc);
}

inline void add_product(const TritPanels& panels, int64_t p, const int8_t* a, int32_t* acc) {
  const uint8_t* group = panels.panel(p);
  for (int64_t b = 0; b < panels.n_blocks; b += kGroupBlocks, group += kGroupBytes) {
    uint8_t codes[kGroupBlocks * kPanelBlockBytes];
    unpack_group(group, codes);
    const int64_t left = panels.n_blocks - b;
    add_product(codes, left < kGroupBlocks ? left : kGroupBlocks, a + kPanelDepth * b, acc);
  }
}

int32_t sum_of(const int8_t* a, int64_t n) {
  int32_t total = 0;
  for (int64_t i = 0; i < n; ++i) total += a[i];
  return total;
}

// Reads each panel once a token, from the cache after the first.
template <class P>
void linear(const Call& call, int64_t begin, int64_t end, Work& work) {
  const P panels(call.weights[0]);
  const bool accumulate = call.ints[4] != 0;
  for (int64_t t = 0; t < call.t; ++t) {
    const int8_t* a = call.in[0].row<const int8_t>(t);
    const int32_t total = sum_of(a, kPanelDepth * panels.n_blocks);
    for (int64_t p = begin; p < end; ++p) {
      int32_t acc[kPanelRows];
      for (int32_t& sum : acc) sum = -total;
      add_product(panels, p, a, acc);
      const float scale = *call.in[1].row<const float>(t) * panels.scales[p];
      float* out = call.out[0].row<float>(t) + kPanelRows * p;
      for (int r = 0; r < kPanelRows; ++r) {
        const float y = static_cast<float>(acc[r]) * scale;
        out[r] = accumulate ? out[r] + y : y;
      }
    }
  }
  count_linear(call, panels, begin, end, work);
}

KERNEL_FUNCTION(i2s_gemv) { linear<Panels>(call, begin, end, work); }
KERNEL_FUNCTION(i2s_gemm) { linear<Panels>(call, begin, end, work); }
KERNEL_FUNCTION(tq1_gemv) { linear<TritPanels>(call, begin, end, work); }
KERNEL_FUNCTION(tq1_gemm) { linear<TritPanels>(call, begin, end, work); }

void group_tile(const uint8_t* codes, const int8_t* a, int64_t, int32_t* sums) {
  std::memset(sums, 0, kPanelRows * sizeof *sums);
  add_product(codes, ScaledPanels::kBlocks, a, sums);
}
constexpr GroupTile kGroupTiles[] = {group_tile};

inline int32_t group_total(const int8_t* a) { return sum_of(a, kScaleGroup); }

KERNEL_FUNCTION(i2s_groups_gemv) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }
KERNEL_FUNCTION(i2s_groups_gemm) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }

}  // namespace
}  // namespace tritium

#include "generic/kernel_table.h"
