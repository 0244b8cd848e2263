// Rows of float and block formats, decoded sixteen weights at a time in the order that their format's formula is written.
#pragma once

#include <cstring>

#include "kernel.h"

namespace tritium {
namespace {

inline float f16_value(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return first(from_f16_first(&half, 1));
}

// A format: kWeights in kBytes, and a decoder of whole blocks. `Block` holds what sixteen-weight groups share.
struct F32Rows {
  static constexpr int64_t kBytes = 64;
  static constexpr int64_t kGroups = 1;  // sixteens in a block
  static constexpr int64_t kElement = 4;
  struct Block {
    const uint8_t* data;
    [[gnu::always_inline]] lanes group(int64_t) const { return load(reinterpret_cast<const float*>(data)); }
  };
  static lanes tail(const uint8_t* data, int64_t n) { return load_first(reinterpret_cast<const float*>(data), n); }
  [[gnu::always_inline]] static void open(Block& b, const uint8_t* data) { b.data = data; }
};

struct F16Rows {
  static constexpr int64_t kBytes = 32;
  static constexpr int64_t kGroups = 1;
  static constexpr int64_t kElement = 2;
  struct Block {
    const uint8_t* data;
    [[gnu::always_inline]] lanes group(int64_t) const { return from_f16(reinterpret_cast<const uint16_t*>(data)); }
  };
  static lanes tail(const uint8_t* data, int64_t n) { return from_f16_first(reinterpret_cast<const uint16_t*>(data), n); }
  [[gnu::always_inline]] static void open(Block& b, const uint8_t* data) { b.data = data; }
};

struct Bf16Rows {
  static constexpr int64_t kBytes = 32;
  static constexpr int64_t kGroups = 1;
  static constexpr int64_t kElement = 2;
  struct Block {
    const uint8_t* data;
    [[gnu::always_inline]] lanes group(int64_t) const { return from_bf16(reinterpret_cast<const uint16_t*>(data)); }
  };
  static lanes tail(const uint8_t* data, int64_t n) { return from_bf16_first(reinterpret_cast<const uint16_t*>(data), n); }
  [[gnu::always_inline]] static void open(Block& b, const uint8_t* data) { b.data = data; }
};

// f16 scale d, 32 int8: d·q.
struct Q8Rows {
  static constexpr int64_t kBytes = 34;
  static constexpr int64_t kGroups = 2;
  static constexpr int64_t kElement = 0;  // no part of a block stands for itself
  struct Block {
    const uint8_t* data;
    float scale;
    [[gnu::always_inline]] lanes group(int64_t g) const {
      return splat(scale) * from_i8(reinterpret_cast<const int8_t*>(data + 2 + 16 * g));
    }
  };
  static lanes tail(const uint8_t*, int64_t) { return splat(0.0f); }
  [[gnu::always_inline]] static void open(Block& b, const uint8_t* data) {
    b.data = data;
    b.scale = f16_value(data);
  }
};

// 128 bytes of low nibbles, 64 of high pairs, 16 int8 sub-scales sc, f16 scale d: (d·sc)·q.
struct Q6Rows {
  static constexpr int64_t kBytes = 210;
  static constexpr int64_t kGroups = 16;
  static constexpr int64_t kElement = 0;
  struct Block {
    alignas(64) int8_t codes[256];
    alignas(64) float scales[16];
    [[gnu::always_inline]] lanes group(int64_t g) const { return splat(scales[g]) * from_i8(codes + 16 * g); }
  };
  static lanes tail(const uint8_t*, int64_t) { return splat(0.0f); }
  [[gnu::always_inline]] static void open(Block& b, const uint8_t* data) {
    q6_k_codes(data, b.codes);
    store(b.scales, splat(f16_value(data + 208)) * from_i8(reinterpret_cast<const int8_t*>(data + 192)));
  }
};

// Bytes of a row. Formats of blocks have whole blocks only.
template <class Rows>
inline int64_t row_bytes(int64_t cols) {
  return Rows::kElement ? cols * Rows::kElement : cols / (16 * Rows::kGroups) * Rows::kBytes;
}

}  // namespace
}  // namespace tritium
