// Panels of the layouts i2s and tq1 (kernel.h) and what every product with them shares.
#pragma once

#include <cstring>

#include "kernel.h"

namespace tritium {
namespace {

constexpr int64_t kPanelBlockBytes = 64;

// Panels whose bytes hold `per_unit` columns in units of `unit_bytes`.
struct PanelRange {
  const uint8_t* data;
  const float* scales;
  int64_t n_blocks;  // of sixteen columns
  int64_t bytes;     // of a panel

  PanelRange(const Resident& w, int64_t per_unit, int64_t unit_bytes)
      : data(w.data), n_blocks((w.cols + kPanelDepth - 1) / kPanelDepth), bytes((w.cols + per_unit - 1) / per_unit * unit_bytes) {
    scales = reinterpret_cast<const float*>(w.data + w.rows / kPanelRows * bytes);
  }

  const uint8_t* panel(int64_t p) const { return data + p * bytes; }
};

struct Panels : PanelRange {
  explicit Panels(const Resident& w) : PanelRange(w, kPanelDepth, kPanelBlockBytes) {}
};

// Five blocks of an i2s panel hold what a group of a tq1 panel does.
constexpr int64_t kGroupBlocks = kTritDepth / kPanelDepth;
constexpr int64_t kGroupBytes = 4 * kPanelBlockBytes;

struct TritPanels : PanelRange {
  int64_t n_groups;

  explicit TritPanels(const Resident& w) : PanelRange(w, kTritDepth, kGroupBytes), n_groups(bytes / kGroupBytes) {}
};

// Panels of i2s_groups: each group of 256 columns is followed by a scale for each of its rows.
struct ScaledPanels {
  static constexpr int64_t kBlocks = kScaleGroup / kPanelDepth;
  static constexpr int64_t kCodeBytes = kBlocks * kPanelBlockBytes;
  static constexpr int64_t kStep = kCodeBytes + kPanelRows * 4;

  const uint8_t* data;
  int64_t n_groups;
  int64_t bytes;  // of a panel

  explicit ScaledPanels(const Resident& w) : data(w.data), n_groups(w.cols / kScaleGroup), bytes(n_groups * kStep) {}

  const uint8_t* codes(int64_t p, int64_t g) const { return data + p * bytes + g * kStep; }
  const float* scales(int64_t p, int64_t g) const { return reinterpret_cast<const float*>(codes(p, g) + kCodeBytes); }
};

// The activations that a panel's last group reads where rows end before it does: those that are there, then zeros.
template <int64_t kMostTokens>
struct Tails {
  int64_t n_whole;  // groups that lie in the rows
  int8_t a[kMostTokens * kTritDepth];

  Tails(const int8_t* rows, int64_t stride, int64_t n, int64_t cols) : n_whole((cols + 63) / 64 * 64 / kTritDepth) {
    const int64_t first = n_whole * kTritDepth, left = cols - first;
    if (left <= 0) return;
    std::memset(a, 0, sizeof a);
    for (int64_t t = 0; t < n; ++t) std::memcpy(a + t * kTritDepth, rows + t * stride + first, static_cast<size_t>(left));
  }
};

// Codes and scales of the panels [begin, end), each of so many bytes, read once; products of the true rows only.
inline void count_linear(const Call& call, int64_t panel_bytes, int64_t begin, int64_t end, Work& work) {
  const Resident& w = call.weights[0];
  const int64_t n = call.ints[1];
  const int64_t last = n < kPanelRows * end ? n : kPanelRows * end;
  const int64_t rows = last > kPanelRows * begin ? last - kPanelRows * begin : 0;
  work.macs += static_cast<uint64_t>(call.t * rows * w.cols);
  work.bytes += static_cast<uint64_t>((end - begin) * panel_bytes);
}
inline void count_linear(const Call& call, const PanelRange& panels, int64_t begin, int64_t end, Work& work) {
  count_linear(call, panels.bytes + 4, begin, end, work);
}

// Tokens of tile i when t tokens are cut into tiles of nearly equal size, at most `widest`.
inline int64_t tile_start(int64_t i, int64_t t, int64_t n_tiles) { return i * t / n_tiles; }

}  // namespace
}  // namespace tritium
