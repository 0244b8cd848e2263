// Digits of tq1 panels as the codes of i2s panels, with vectors of the compiler's own.
#pragma once

#include <cstring>

#include "generic/panels.h"

namespace tritium {
namespace {

using digit_bytes = uint8_t __attribute__((vector_size(16)));

// Takes the digit of m = 3ʲ from bytes below 3·m, and leaves what remains.
[[gnu::always_inline]] inline digit_bytes take_digit(digit_bytes& v, uint8_t m) {
  const digit_bytes digit = -(reinterpret_cast<digit_bytes>(v >= m) + reinterpret_cast<digit_bytes>(v >= static_cast<uint8_t>(2 * m)));
  v -= digit * m;
  return digit;
}

// The four blocks of a group as five of an i2s panel.
inline void unpack_group(const uint8_t* group, uint8_t* codes) {
  for (int64_t at = 0; at < kPanelBlockBytes; at += static_cast<int64_t>(sizeof(digit_bytes))) {
    digit_bytes fifths{};
    for (int64_t i = 0; i < 4; ++i) {
      digit_bytes v;
      std::memcpy(&v, group + i * kPanelBlockBytes + at, sizeof v);
      fifths |= take_digit(v, kFifthDigit) << static_cast<uint8_t>(2 * i);
      const digit_bytes fourth = take_digit(v, 27), third = take_digit(v, 9), second = take_digit(v, 3);
      v |= second << 2 | third << 4 | fourth << 6;
      std::memcpy(codes + i * kPanelBlockBytes + at, &v, sizeof v);
    }
    std::memcpy(codes + 4 * kPanelBlockBytes + at, &fifths, sizeof fifths);
  }
}

}  // namespace
}  // namespace tritium
