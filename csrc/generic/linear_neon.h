// linear on 128-bit registers: what the Arm units share. A unit brings the tiles, which multiply a panel with a few tokens.
#pragma once

#include <arm_neon.h>

#include "generic/groups.h"
#include "generic/trits.h"

namespace tritium {
namespace {

// Four rows of one token, with rows ascending over four such vectors: Σ code·a over the panel's blocks, written to sums[4·token + i].
using Tile = void (*)(const uint8_t* panel, int64_t n_blocks, const int8_t* a, int64_t stride, int32x4_t* sums);

// Pins a value to its register here. Without it gcc forms the codes of all places before it uses them, and stores sums on every pass
// because the registers do not hold both.
template <class Vector>
[[gnu::always_inline]] inline void settle(Vector& x) {
  asm volatile("" : "+w"(x));
}

// The codes at bits 2·J of sixteen bytes: four rows, four k.
template <int J>
[[gnu::always_inline]] inline int8x16_t codes_of(uint8x16_t packed) {
  settle(packed);
  if constexpr (J == 0) return vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(3)));
  if constexpr (J == 3) return vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
  if constexpr (J == 1 || J == 2) return vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 2 * J), vdupq_n_u8(3)));
}

// Sixty-four bytes of a panel: sixteen rows, sixteen k.
struct Block {
  uint8x16_t r0, r4, r8, r12;
};
[[gnu::always_inline]] inline Block load_block(const uint8_t* p) {
  return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)};
}

// Σ a over n_blocks·16 activations, in lanes of at most 4·128 an addition.
inline int32_t sum_of(const int8_t* a, int64_t n_blocks) {
  int32x4_t total = vdupq_n_s32(0);
  for (int64_t b = 0; b < n_blocks; ++b) total = vpadalq_s16(total, vpaddlq_s8(vld1q_s8(a + kPanelDepth * b)));
  return vaddvq_s32(total);
}

// f32(Σ code·a − Σ a)·scale, added to what is there or not.
inline void finish(const int32x4_t* sums, int32_t total, float scale, bool accumulate, float* out) {
  for (int i = 0; i < 4; ++i) {
    const float32x4_t y = vmulq_f32(vcvtq_f32_s32(vsubq_s32(sums[i], vdupq_n_s32(total))), vdupq_n_f32(scale));
    vst1q_f32(out + 4 * i, accumulate ? vaddq_f32(vld1q_f32(out + 4 * i), y) : y);
  }
}

// A panel of codes: as it stands, or from digits, in the scratch memory.
inline const uint8_t* panel_codes(const Panels& panels, int64_t p, const Call&) { return panels.panel(p); }
inline const uint8_t* panel_codes(const TritPanels& panels, int64_t p, const Call& call) {
  auto* codes = reinterpret_cast<uint8_t*>(call.scratch);
  for (int64_t g = 0; g < panels.n_groups; ++g) {
    unpack_group(panels.panel(p) + g * kGroupBytes, codes + g * kGroupBlocks * kPanelBlockBytes);
  }
  return codes;
}

// The panels [begin, end) for all tokens, `widest` at a time. Panels come from memory once; for more tokens they come from the cache
// again, in which a panel stays.
template <class P>
void multiply(const Call& call, int64_t begin, int64_t end, const Tile* tiles, int64_t widest, Work& work) {
  constexpr int64_t kTokens = 64;  // whose Σ a stand on the stack at once
  const P panels(call.weights[0]);
  const int64_t stride = call.in[0].stride;
  for (int64_t first = 0; first < call.t; first += kTokens) {
    const int64_t n = call.t - first < kTokens ? call.t - first : kTokens, n_tiles = (n + widest - 1) / widest;
    const int8_t* a = call.in[0].row<const int8_t>(first);
    int32_t totals[kTokens];
    for (int64_t t = 0; t < n; ++t) totals[t] = sum_of(a + t * stride, panels.n_blocks);
    for (int64_t p = begin; p < end; ++p) {
      const uint8_t* codes = panel_codes(panels, p, call);
      int32x4_t sums[4 * kTokens];
      for (int64_t i = 0; i < n_tiles; ++i) {
        const int64_t t = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - t;
        tiles[width - 1](codes, panels.n_blocks, a + t * stride, stride, sums + 4 * t);
      }
      for (int64_t t = 0; t < n; ++t) {
        const float scale = *call.in[1].row<const float>(first + t) * panels.scales[p];
        finish(sums + 4 * t, totals[t], scale, call.ints[4] != 0, call.out[0].row<float>(first + t) + kPanelRows * p);
      }
    }
  }
  count_linear(call, panels, begin, end, work);
}

// A tile on a group of a panel.
template <Tile kTile>
void group_tile(const uint8_t* codes, const int8_t* a, int64_t stride, int32_t* sums) {
  kTile(codes, ScaledPanels::kBlocks, a, stride, reinterpret_cast<int32x4_t*>(sums));
}

inline int32_t group_total(const int8_t* a) { return sum_of(a, ScaledPanels::kBlocks); }

}  // namespace
}  // namespace tritium
