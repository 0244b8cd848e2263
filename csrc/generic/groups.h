// linear on i2s_groups panels: integer sums of each group of columns, scaled and added in float32. A unit brings the tiles, which
// multiply a group of a panel with a few tokens.
#pragma once

#include "generic/panels.h"

namespace tritium {
namespace {

// Σ code·a of some tokens × sixteen rows over the 256 k of a group, written to sums[16·token + row], 64-byte aligned.
using GroupTile = void (*)(const uint8_t* codes, const int8_t* a, int64_t stride, int32_t* sums);

constexpr int64_t kWidestGroupTile = 12;
constexpr int64_t kGroupTokens = 96;  // whose activations stay in cache while panels pass

// y += f32(Σ code·a − Σ a)·(scale of the token · scales of the rows). |Σ code·a| ≤ 2·128·256 = 2¹⁶ and |Σ a| ≤ 2¹⁵: both, and what is
// between them, are float32 exactly.
[[gnu::always_inline]] inline void add_group(const int32_t* sums, float total, float scale, const lanes& scales_w, float* y) {
  store(y, load(y) + (from_i32(sums) - splat(total)) * (splat(scale) * scales_w));
}

// The panels [begin, end) for all tokens, at most `widest` at a time; `total_of` gives Σ a of the 256 k of a group. Panels come from
// memory once, and for more tokens from the cache again.
template <class TotalOf>
void linear_groups(const Call& call, int64_t begin, int64_t end, const GroupTile* tiles, int64_t widest, const TotalOf& total_of,
                   Work& work) {
  const ScaledPanels panels(call.weights[0]);
  const int64_t n_groups = panels.n_groups, stride = call.in[0].stride;
  const int64_t room = call.scratch_floats / n_groups, most = room < kGroupTokens ? room : kGroupTokens;
  const bool accumulate = call.ints[4] != 0;
  for (int64_t first = 0; first < call.t; first += most) {
    const int64_t n = call.t - first < most ? call.t - first : most, n_tiles = (n + widest - 1) / widest;
    const int8_t* a = call.in[0].row<const int8_t>(first);
    float* totals = call.scratch;
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t g = 0; g < n_groups; ++g) totals[t * n_groups + g] = static_cast<float>(total_of(a + t * stride + g * kScaleGroup));
    }
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t i = 0; i < n_tiles; ++i) {
        const int64_t start = tile_start(i, n, n_tiles), width = tile_start(i + 1, n, n_tiles) - start;
        alignas(64) int32_t sums[kWidestGroupTile * kPanelRows];
        float y[kWidestGroupTile * kPanelRows];
        for (int64_t t = 0; t < width; ++t) store(y + kPanelRows * t, splat(0.0f));
        for (int64_t g = 0; g < n_groups; ++g) {
          tiles[width - 1](panels.codes(p, g), a + start * stride + g * kScaleGroup, stride, sums);
          const lanes scales_w = load(panels.scales(p, g));
          for (int64_t t = 0; t < width; ++t) {
            add_group(sums + kPanelRows * t, totals[(start + t) * n_groups + g], *call.in[1].row<const float>(first + start + t), scales_w,
                      y + kPanelRows * t);
          }
        }
        for (int64_t t = 0; t < width; ++t) {
          float* out = call.out[0].row<float>(first + start + t) + kPanelRows * p;
          const lanes sum = load(y + kPanelRows * t);
          store(out, accumulate ? load(out) + sum : sum);
        }
      }
    }
  }
  count_linear(call, panels.bytes, begin, end, work);
}

}  // namespace
}  // namespace tritium
