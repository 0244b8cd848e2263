// NEON with the matrix product of armv8.6-a's i8mm: smmla for several tokens, sdot for one, four registers for sixteen lanes.
#include "generic/lanes_neon.h"

#define TRITIUM_ROW_neoni8mm 1
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

// Sums of 2·P tokens × 16 rows, two rows × two tokens a register, and sixteen activations of each token, as a tree of members: gcc
// keeps arrays of vectors in memory.
template <int P>
struct Squares {
  Squares<P / 2> left;
  Squares<P - P / 2> right;
};
template <>
struct Squares<1> {
  int32x4_t r0, r2, r4, r6, r8, r10, r12, r14;
  int8x16_t a;
};

template <int P>
[[gnu::always_inline]] inline void clear(Squares<P>& s) {
  if constexpr (P == 1) {
    s.r0 = s.r2 = s.r4 = s.r6 = s.r8 = s.r10 = s.r12 = s.r14 = vdupq_n_s32(0);
  } else {
    clear(s.left);
    clear(s.right);
  }
}
template <int P>
[[gnu::always_inline]] inline void take(Squares<P>& s, const int8_t* a, int64_t stride) {
  if constexpr (P == 1) {
    s.a = vcombine_s8(vld1_s8(a), vld1_s8(a + stride));
  } else {
    take(s.left, a, stride);
    take(s.right, a + P / 2 * 2 * stride, stride);
  }
}
// Four rows, eight k: the words of the codes at two neighboring places side by side make rows of eight.
struct Rows4 {
  int8x16_t low, high;
};
template <int J>
[[gnu::always_inline]] inline Rows4 eight_deep(uint8x16_t packed) {
  const int32x4_t near = vreinterpretq_s32_s8(codes_of<J>(packed)), far = vreinterpretq_s32_s8(codes_of<J + 1>(packed));
  return {vreinterpretq_s8_s32(vzip1q_s32(near, far)), vreinterpretq_s8_s32(vzip2q_s32(near, far))};
}
template <int P>
[[gnu::always_inline]] inline void add_squares(Squares<P>& s, const Rows4& r0, const Rows4& r4, const Rows4& r8, const Rows4& r12) {
  if constexpr (P == 1) {
    s.r0 = vmmlaq_s32(s.r0, r0.low, s.a);
    settle(s.r0);
    s.r2 = vmmlaq_s32(s.r2, r0.high, s.a);
    settle(s.r2);
    s.r4 = vmmlaq_s32(s.r4, r4.low, s.a);
    settle(s.r4);
    s.r6 = vmmlaq_s32(s.r6, r4.high, s.a);
    settle(s.r6);
    s.r8 = vmmlaq_s32(s.r8, r8.low, s.a);
    settle(s.r8);
    s.r10 = vmmlaq_s32(s.r10, r8.high, s.a);
    settle(s.r10);
    s.r12 = vmmlaq_s32(s.r12, r12.low, s.a);
    settle(s.r12);
    s.r14 = vmmlaq_s32(s.r14, r12.high, s.a);
    settle(s.r14);
  } else {
    add_squares(s.left, r0, r4, r8, r12);
    add_squares(s.right, r0, r4, r8, r12);
  }
}
template <int J, int P>
[[gnu::always_inline]] inline void add_squares(Squares<P>& s, const Block& b, const int8_t* a, int64_t stride) {
  take(s, a + 4 * J, stride);
  add_squares(s, eight_deep<J>(b.r0), eight_deep<J>(b.r4), eight_deep<J>(b.r8), eight_deep<J>(b.r12));
}
template <int P>
[[gnu::always_inline]] inline void store(const Squares<P>& s, int32x4_t* sums) {
  if constexpr (P == 1) {
    sums[0] = vuzp1q_s32(s.r0, s.r2);
    sums[1] = vuzp1q_s32(s.r4, s.r6);
    sums[2] = vuzp1q_s32(s.r8, s.r10);
    sums[3] = vuzp1q_s32(s.r12, s.r14);
    sums[4] = vuzp2q_s32(s.r0, s.r2);
    sums[5] = vuzp2q_s32(s.r4, s.r6);
    sums[6] = vuzp2q_s32(s.r8, s.r10);
    sums[7] = vuzp2q_s32(s.r12, s.r14);
  } else {
    store(s.left, sums);
    store(s.right, sums + P / 2 * 8);
  }
}

// Pairs of tokens. |Σ code·a| ≤ 256·K, which int32 holds for K < 2²³.
template <int P>
void square_tile(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32x4_t* sums) {
  Squares<P> s;
  clear(s);
  for (int64_t i = 0; i < n_blocks; ++i, a += kPanelDepth, panel += kPanelBlockBytes) {
    const Block b = load_block(panel);
    add_squares<0>(s, b, a, stride);
    add_squares<2>(s, b, a, stride);
  }
  store(s, sums);
}

// Four tokens take 18 of the 32 registers, codes and packed bytes 12.
constexpr Tile kTiles[] = {dot_tile<1>, square_tile<1>, dot_tile<3>, square_tile<2>};

// One token: panels are read once.
KERNEL_FUNCTION(i2s_gemv) { multiply<Panels>(call, begin, end, kTiles, 1, work); }
// Several tokens: see multiply.
KERNEL_FUNCTION(i2s_gemm) { multiply<Panels>(call, begin, end, kTiles, 4, work); }
KERNEL_FUNCTION(tq1_gemv) { multiply<TritPanels>(call, begin, end, kTiles, 1, work); }
KERNEL_FUNCTION(tq1_gemm) { multiply<TritPanels>(call, begin, end, kTiles, 4, work); }

constexpr GroupTile kGroupTiles[] = {group_tile<dot_tile<1>>, group_tile<square_tile<1>>, group_tile<dot_tile<3>>, group_tile<square_tile<2>>};

KERNEL_FUNCTION(i2s_groups_gemv) { linear_groups(call, begin, end, kGroupTiles, 1, group_total, work); }
KERNEL_FUNCTION(i2s_groups_gemm) { linear_groups(call, begin, end, kGroupTiles, 4, group_total, work); }

}  // namespace
}  // namespace tritium

#include "generic/kernel_table.h"
