// The operands on which self_test.cpp runs a kernel: small, odd, adversarial, and the same everywhere.
#pragma once

#include <cstring>
#include <string_view>
#include <vector>

#include "kernel.h"
#include "platform.h"

namespace tritium {

struct Shape {
  int64_t t;  // rows
  int64_t k;  // features
  int64_t n;  // weight rows: of a linear, a vocabulary
  int32_t heads;
  int32_t kv_heads;
  int32_t dim;
};

// One call's operands in memory of its own. Whatever a kernel may write, outputs and cache, is compared as bytes, sentinels too.
struct Scene {
  static constexpr int64_t kRegionBytes = 1 << 16;
  static constexpr int64_t kRowsBytes = 24 << 10;  // of an input's or output's region, which rows and sentinels fill
  static constexpr int64_t kScratchBytes = 1 << 20;  // as large as an executor's
  static constexpr int kInputs = 3, kOutputs = 2, kWeights = 2;
  enum Region {
    first_input = 0,
    first_weight = kInputs,
    spill = first_weight + kWeights,  // of a weight that is larger than its regions
    sums,
    first_output,
    keys = first_output + kOutputs,
    values,
    n_regions
  };

  Scene() : memory(static_cast<uint64_t>(n_regions) * kRegionBytes), scratch(kScratchBytes) {}

  uint8_t* region(int index) const { return memory.data() + index * kRegionBytes; }
  template <class T>
  T* as(int index) const {
    return reinterpret_cast<T*>(region(index));
  }

  Pages memory, scratch;
  Call call{};
  int64_t units = 0;
  int64_t done = 0;
  std::vector<int32_t> ints;
  std::vector<float> floats;
  std::vector<int32_t> tokens, positions, slots, block_tables, outputs, tiles;
};

// Lays out a call of the op. False if the op has no recipe: then nothing can be said about its kernels.
bool set_scene(Scene& scene, std::string_view op, std::string_view layout, const Shape& shape);

}  // namespace tritium
