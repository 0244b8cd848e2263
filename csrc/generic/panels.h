// Panels of the i2s layout (kernel.h) and what every product with them shares.
#pragma once

#include "kernel.h"

namespace tritium {
namespace {

constexpr int64_t kPanelBlockBytes = 64;

struct Panels {
  const uint8_t* data;
  const float* scales;
  int64_t n_blocks;  // 64-byte blocks of a panel, sixteen k each

  explicit Panels(const Resident& w)
      : data(w.data),
        scales(reinterpret_cast<const float*>(w.data + w.rows / kPanelRows * ((w.cols + 15) / 16) * kPanelBlockBytes)),
        n_blocks((w.cols + 15) / 16) {}

  const uint8_t* panel(int64_t p) const { return data + p * n_blocks * kPanelBlockBytes; }
};

// Codes and scales of the panels [begin, end), read once; products of the true rows only.
inline void count_linear(const Call& call, int64_t begin, int64_t end, Work& work) {
  const Resident& w = call.weights[0];
  const int64_t n = call.ints[1];
  const int64_t last = n < kPanelRows * end ? n : kPanelRows * end;
  const int64_t rows = last > kPanelRows * begin ? last - kPanelRows * begin : 0;
  work.macs += static_cast<uint64_t>(call.t * rows * w.cols);
  work.bytes += static_cast<uint64_t>((end - begin) * ((w.cols + 15) / 16 * kPanelBlockBytes + 4));
}

// Tokens of tile i when t tokens are cut into tiles of nearly equal size, at most `widest`.
inline int64_t tile_start(int64_t i, int64_t t, int64_t n_tiles) { return i * t / n_tiles; }

}  // namespace
}  // namespace tritium
