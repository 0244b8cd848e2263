// float16 as it stands in files.
#pragma once

#include <cstdint>
#include <cstring>

namespace tritium {

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Exponent and mantissa of float16 move to their places, a multiplication by 2^112 corrects the bias; the top exponent stays the top.
inline float from_f16(uint16_t half) {
  const uint32_t h = half;
  uint32_t bits;
  const float scaled = from_bits((h & 0x7FFFu) << 13) * 0x1p112f;
  std::memcpy(&bits, &scaled, sizeof bits);
  return from_bits(bits | ((h & 0x7C00u) == 0x7C00u ? 0x7F800000u : 0u) | (h & 0x8000u) << 16);
}

inline uint16_t half_at(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, sizeof half);
  return half;
}

}  // namespace tritium
