// Products with i2s_groups panels, from the tiles of i2s panels: included behind them.
#pragma once

#include <immintrin.h>

#include "generic/groups.h"
#include "generic/kernel_names.h"

namespace tritium {
namespace {

// A group of a panel × T tokens: its 16 blocks are what an int16 lane holds.
template <int T>
void group_tile(const uint8_t* codes, const int8_t* a, int64_t stride, int32_t* sums) {
  static_assert(ScaledPanels::kBlocks <= kFlushBlocks);
  auto* vectors = reinterpret_cast<__m256i*>(sums);
  if constexpr (T == 1) {
    multiply_one(codes, ScaledPanels::kBlocks, a, vectors);
  } else {
    for (int i = 0; i < 2 * T; ++i) vectors[i] = _mm256_setzero_si256();
    tile<Packed, T>(codes, ScaledPanels::kBlocks, a, stride, vectors);
  }
}
constexpr GroupTile kGroupTiles[] = {group_tile<1>, group_tile<2>, group_tile<3>, group_tile<4>, group_tile<5>, group_tile<6>};

inline int32_t group_total(const int8_t* a) { return sum_of(a, ScaledPanels::kBlocks); }

KERNEL_FUNCTION(i2s_groups_gemv) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }
KERNEL_FUNCTION(i2s_groups_gemm) { linear_groups(call, begin, end, kGroupTiles, kTile, group_total, work); }

}  // namespace
}  // namespace tritium
