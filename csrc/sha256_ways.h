// Ways to the rounds of SHA-256: all come to the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tritium {

// `n` blocks of 64 bytes into each of several states of eight words.
using Compress = void (*)(uint32_t* const* states, const uint8_t* const* blocks, size_t n);

struct Sha256Way {
  const char* name;
  bool (*usable)();
  int n_lanes;       // strings that `several` takes at a time: as many, no fewer
  Compress one;
  Compress several;
};

constexpr int kMostLanes = 8;

std::span<const Sha256Way> sha256_ways();  // the fastest first; not all are usable
const Sha256Way& fastest_sha256();

}  // namespace tritium
