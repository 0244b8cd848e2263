// NEON with the dot product of armv8.2-a: sdot for the integer products, four registers for sixteen lanes.
#include "generic/lanes_neon.h"

#define TRITIUM_ROW_neondot 1
#include "generic/kernel_names.h"

#include "generic/attention.h"
#include "generic/dot_neon.h"
#include "generic/embedding.h"
#include "generic/glu.h"
#include "generic/logits.h"
#include "generic/norm.h"
#include "generic/rope.h"
#include "generic/select.h"
#include "generic/plane_neon.h"
#include "generic/rescore.h"
#include "generic/sparse_scalar.h"
#include "generic/sparse.h"

namespace tritium {
namespace {

// Four tokens take 20 of the 32 registers, codes and packed bytes 8.
constexpr Tile kTiles[] = {dot_tile<1>, dot_tile<2>, dot_tile<3>, dot_tile<4>};

// One token: panels are read once.
KERNEL_FUNCTION(i2s_gemv) { multiply<Panels>(call, begin, end, kTiles, 1, work); }
// Several tokens: see multiply.
KERNEL_FUNCTION(i2s_gemm) { multiply<Panels>(call, begin, end, kTiles, 4, work); }
KERNEL_FUNCTION(tq1_gemv) { multiply<TritPanels>(call, begin, end, kTiles, 1, work); }
KERNEL_FUNCTION(tq1_gemm) { multiply<TritPanels>(call, begin, end, kTiles, 4, work); }

constexpr GroupTile kGroupTiles[] = {group_tile<dot_tile<1>>, group_tile<dot_tile<2>>, group_tile<dot_tile<3>>, group_tile<dot_tile<4>>};

KERNEL_FUNCTION(i2s_groups_gemv) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }
KERNEL_FUNCTION(i2s_groups_gemm) { linear_groups(call, begin, end, kGroupTiles, 4, group_total, work); }

}  // namespace
}  // namespace tritium

#include "generic/kernel_table.h"
