// Tiles of sdot: four products of int8 at once into a lane of 32 bits.
#pragma once

#include "generic/linear_neon.h"

namespace tritium {
namespace {

// Sums of T tokens × 16 rows and the sixteen activations of each, as a tree of members: gcc keeps arrays of vectors in memory.
template <int T>
struct Dots {
  Dots<T / 2> left;
  Dots<T - T / 2> right;
};
template <>
struct Dots<1> {
  int32x4_t r0, r4, r8, r12;
  int8x16_t a;
};

template <int T>
[[gnu::always_inline]] inline void clear(Dots<T>& s) {
  if constexpr (T == 1) {
    s.r0 = s.r4 = s.r8 = s.r12 = vdupq_n_s32(0);
  } else {
    clear(s.left);
    clear(s.right);
  }
}
template <int T>
[[gnu::always_inline]] inline void take(Dots<T>& s, const int8_t* a, int64_t stride) {
  if constexpr (T == 1) {
    s.a = vld1q_s8(a);
  } else {
    take(s.left, a, stride);
    take(s.right, a + T / 2 * stride, stride);
  }
}
template <int J, int T>
[[gnu::always_inline]] inline void add_dots(Dots<T>& s, int8x16_t r0, int8x16_t r4, int8x16_t r8, int8x16_t r12) {
  if constexpr (T == 1) {
    s.r0 = vdotq_laneq_s32(s.r0, r0, s.a, J);
    settle(s.r0);
    s.r4 = vdotq_laneq_s32(s.r4, r4, s.a, J);
    settle(s.r4);
    s.r8 = vdotq_laneq_s32(s.r8, r8, s.a, J);
    settle(s.r8);
    s.r12 = vdotq_laneq_s32(s.r12, r12, s.a, J);
    settle(s.r12);
  } else {
    add_dots<J>(s.left, r0, r4, r8, r12);
    add_dots<J>(s.right, r0, r4, r8, r12);
  }
}
template <int J, int T>
[[gnu::always_inline]] inline void add_dots(Dots<T>& s, const Block& b) {
  add_dots<J>(s, codes_of<J>(b.r0), codes_of<J>(b.r4), codes_of<J>(b.r8), codes_of<J>(b.r12));
}
template <int T>
[[gnu::always_inline]] inline void store(const Dots<T>& s, int32x4_t* sums) {
  if constexpr (T == 1) {
    sums[0] = s.r0;
    sums[1] = s.r4;
    sums[2] = s.r8;
    sums[3] = s.r12;
  } else {
    store(s.left, sums);
    store(s.right, sums + T / 2 * 4);
  }
}

// |Σ code·a| ≤ 256·K, which int32 holds for K < 2²³.
template <int T>
void dot_tile(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32x4_t* sums) {
  Dots<T> s;
  clear(s);
  for (int64_t i = 0; i < n_blocks; ++i, a += kPanelDepth, panel += kPanelBlockBytes) {
    const Block b = load_block(panel);
    take(s, a, stride);
    add_dots<0>(s, b);
    add_dots<1>(s, b);
    add_dots<2>(s, b);
    add_dots<3>(s, b);
  }
  store(s, sums);
}

}  // namespace
}  // namespace tritium
