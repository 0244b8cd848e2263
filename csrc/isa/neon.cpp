// NEON as every armv8-a has it: widening multiplies for the integer products, four registers for sixteen lanes.
#include "generic/lanes_neon.h"

#define TRITIUM_ROW_neon 1
#include "generic/kernel_names.h"

#include "generic/attention.h"
#include "generic/embedding.h"
#include "generic/glu.h"
#include "generic/linear_neon.h"
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

// smlal adds c·a with codes c in {0, 1, 2} and a in [−128, 127], at least −256, to a lane of 16 bits, which holds 128 of them exactly
// and not 129. A block makes 4 additions a lane, so lanes are flushed every 32 blocks.
constexpr int64_t kFlushBlocks = 32;

// int16 sums of T tokens × 16 rows, two rows a register, as a tree of members: gcc keeps arrays of vectors in memory.
template <int T>
struct Words {
  Words<T / 2> left;
  Words<T - T / 2> right;
};
template <>
struct Words<1> {
  int16x8_t r0, r2, r4, r6, r8, r10, r12, r14;
  int8x16_t a;
};

template <int T>
[[gnu::always_inline]] inline void clear(Words<T>& s) {
  if constexpr (T == 1) {
    s.r0 = s.r2 = s.r4 = s.r6 = s.r8 = s.r10 = s.r12 = s.r14 = vdupq_n_s16(0);
  } else {
    clear(s.left);
    clear(s.right);
  }
}
template <int T>
[[gnu::always_inline]] inline void take(Words<T>& s, const int8_t* a, int64_t stride) {
  if constexpr (T == 1) {
    s.a = vld1q_s8(a);
  } else {
    take(s.left, a, stride);
    take(s.right, a + T / 2 * stride, stride);
  }
}
template <int J, int T>
[[gnu::always_inline]] inline void add_products(Words<T>& s, int8x16_t r0, int8x16_t r4, int8x16_t r8, int8x16_t r12) {
  if constexpr (T == 1) {
    const int8x16_t a = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(s.a), J));
    s.r0 = vmlal_s8(s.r0, vget_low_s8(r0), vget_low_s8(a));
    settle(s.r0);
    s.r2 = vmlal_high_s8(s.r2, r0, a);
    settle(s.r2);
    s.r4 = vmlal_s8(s.r4, vget_low_s8(r4), vget_low_s8(a));
    settle(s.r4);
    s.r6 = vmlal_high_s8(s.r6, r4, a);
    settle(s.r6);
    s.r8 = vmlal_s8(s.r8, vget_low_s8(r8), vget_low_s8(a));
    settle(s.r8);
    s.r10 = vmlal_high_s8(s.r10, r8, a);
    settle(s.r10);
    s.r12 = vmlal_s8(s.r12, vget_low_s8(r12), vget_low_s8(a));
    settle(s.r12);
    s.r14 = vmlal_high_s8(s.r14, r12, a);
    settle(s.r14);
  } else {
    add_products<J>(s.left, r0, r4, r8, r12);
    add_products<J>(s.right, r0, r4, r8, r12);
  }
}
template <int J, int T>
[[gnu::always_inline]] inline void add_products(Words<T>& s, const Block& b) {
  add_products<J>(s, codes_of<J>(b.r0), codes_of<J>(b.r4), codes_of<J>(b.r8), codes_of<J>(b.r12));
}

// Add the four partial sums of every row.
inline int32x4_t rows_of(int16x8_t low, int16x8_t high) { return vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)); }
template <int T>
[[gnu::always_inline]] inline void flush(const Words<T>& s, int32x4_t* sums) {
  if constexpr (T == 1) {
    sums[0] = vaddq_s32(sums[0], rows_of(s.r0, s.r2));
    sums[1] = vaddq_s32(sums[1], rows_of(s.r4, s.r6));
    sums[2] = vaddq_s32(sums[2], rows_of(s.r8, s.r10));
    sums[3] = vaddq_s32(sums[3], rows_of(s.r12, s.r14));
  } else {
    flush(s.left, sums);
    flush(s.right, sums + T / 2 * 4);
  }
}

// |Σ code·a| ≤ 256·K, which int32 holds for K < 2²³.
template <int T>
void tile(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32x4_t* sums) {
  for (int i = 0; i < 4 * T; ++i) sums[i] = vdupq_n_s32(0);
  for (int64_t begin = 0; begin < n_blocks; begin += kFlushBlocks) {
    const int64_t end = n_blocks - begin < kFlushBlocks ? n_blocks : begin + kFlushBlocks;
    Words<T> s;
    clear(s);
    for (int64_t i = begin; i < end; ++i) {
      const Block b = load_block(panel + kPanelBlockBytes * i);
      take(s, a + kPanelDepth * i, stride);
      add_products<0>(s, b);
      add_products<1>(s, b);
      add_products<2>(s, b);
      add_products<3>(s, b);
    }
    flush(s, sums);
  }
}

// Two tokens take 18 of the 32 registers.
constexpr Tile kTiles[] = {tile<1>, tile<2>};

// One token: panels are read once.
KERNEL_FUNCTION(i2s_gemv) { multiply<Panels>(call, begin, end, kTiles, 1, work); }
// Several tokens: see multiply.
KERNEL_FUNCTION(i2s_gemm) { multiply<Panels>(call, begin, end, kTiles, 2, work); }
KERNEL_FUNCTION(tq1_gemv) { multiply<TritPanels>(call, begin, end, kTiles, 1, work); }
KERNEL_FUNCTION(tq1_gemm) { multiply<TritPanels>(call, begin, end, kTiles, 2, work); }

constexpr GroupTile kGroupTiles[] = {group_tile<tile<1>>, group_tile<tile<2>>};

KERNEL_FUNCTION(i2s_groups_gemv) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }
KERNEL_FUNCTION(i2s_groups_gemm) { linear_groups(call, begin, end, kGroupTiles, 2, group_total, work); }

}  // namespace
}  // namespace tritium

#include "generic/kernel_table.h"
