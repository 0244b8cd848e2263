// Rows of float and block formats, decoded sixteen weights at a time in the order in which their format's formula is written.
#pragma once

#include <cstring>

#include "kernel.h"

namespace tritium {
namespace {

// A format: blocks of kGroups · 16 weights in kBytes. `open` decodes into Block what a block's sixteens share, `group` one sixteen.
// kElement is the size of a weight that stands for itself, 0 if only whole blocks do; `tail` decodes n < 16 of them.
struct F32Rows {
  static constexpr int64_t kBytes = 64;
  static constexpr int64_t kGroups = 1;
  static constexpr int64_t kElement = 4;
  struct Block {};
  static void open(Block&, const uint8_t*) {}
  static lanes group(const Block&, const uint8_t* data, int64_t) { return load(reinterpret_cast<const float*>(data)); }
  static lanes tail(const uint8_t* data, int64_t n) { return load_first(reinterpret_cast<const float*>(data), n); }
};

struct F16Rows {
  static constexpr int64_t kBytes = 32;
  static constexpr int64_t kGroups = 1;
  static constexpr int64_t kElement = 2;
  struct Block {};
  static void open(Block&, const uint8_t*) {}
  static lanes group(const Block&, const uint8_t* data, int64_t) { return from_f16(reinterpret_cast<const uint16_t*>(data)); }
  static lanes tail(const uint8_t* data, int64_t n) { return from_f16_first(reinterpret_cast<const uint16_t*>(data), n); }
};

struct Bf16Rows {
  static constexpr int64_t kBytes = 32;
  static constexpr int64_t kGroups = 1;
  static constexpr int64_t kElement = 2;
  struct Block {};
  static void open(Block&, const uint8_t*) {}
  static lanes group(const Block&, const uint8_t* data, int64_t) { return from_bf16(reinterpret_cast<const uint16_t*>(data)); }
  static lanes tail(const uint8_t* data, int64_t n) { return from_bf16_first(reinterpret_cast<const uint16_t*>(data), n); }
};

inline lanes scale_at(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return splat_f16(half);
}

// f16 scale d, 32 int8 q: d·q.
struct Q8Rows {
  static constexpr int64_t kBytes = 34;
  static constexpr int64_t kGroups = 2;
  static constexpr int64_t kElement = 0;
  struct Block {
    lanes scale;
  };
  static void open(Block& b, const uint8_t* data) { b.scale = scale_at(data); }
  static lanes group(const Block& b, const uint8_t* data, int64_t g) {
    return b.scale * from_i8(reinterpret_cast<const int8_t*>(data + 2 + 16 * g));
  }
  static lanes tail(const uint8_t*, int64_t) { return splat(0.0f); }
};

// 128 bytes of low nibbles, 64 of high pairs, 16 int8 sub-scales sc, f16 scale d: (d·sc)·q.
struct Q6Rows {
  static constexpr int64_t kBytes = 210;
  static constexpr int64_t kGroups = 16;
  static constexpr int64_t kElement = 0;
  struct Block {
    alignas(64) int8_t codes[256];
    alignas(64) float scales[16];
  };
  static void open(Block& b, const uint8_t* data) {
    q6_k_codes(data, b.codes);
    store(b.scales, scale_at(data + 208) * from_i8(reinterpret_cast<const int8_t*>(data + 192)));
  }
  static lanes group(const Block& b, const uint8_t*, int64_t g) { return splat(b.scales[g]) * from_i8(b.codes + 16 * g); }
  static lanes tail(const uint8_t*, int64_t) { return splat(0.0f); }
};

// Bytes of a row. Formats of blocks have whole blocks only.
template <class Rows>
inline int64_t row_bytes(int64_t cols) {
  return Rows::kElement ? cols * Rows::kElement : cols / (16 * Rows::kGroups) * Rows::kBytes;
}

}  // namespace
}  // namespace tritium
