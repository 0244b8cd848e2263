// Digits of tq1 panels as codes of a byte, with AVX2.
#pragma once

#include <immintrin.h>

#include "generic/panels.h"

namespace tritium {
namespace {

// Bytes below 3·m modulo m, m ≤ 85: what is subtracted too often wraps around to more than the byte was.
[[gnu::always_inline]] inline __m256i modulo(__m256i v, int m) {
  const __m256i once = _mm256_sub_epi8(v, _mm256_set1_epi8(static_cast<char>(m)));
  const __m256i twice = _mm256_sub_epi8(v, _mm256_set1_epi8(static_cast<char>(2 * m)));
  return _mm256_min_epu8(_mm256_min_epu8(v, once), twice);
}

// The digits of 32 bytes, a byte each.
struct FiveDigits {
  __m256i d0, d1, d2, d3, d4;
};
[[gnu::always_inline]] inline FiveDigits digits_of(__m256i v) {
  // By the low four bits of 27·digit, and by two digits as a number.
  const __m256i of_27 = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0));
  const __m256i high = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0));
  const __m256i low = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
  const __m256i mask = _mm256_set1_epi8(3);
  const __m256i four = modulo(v, kFifthDigit), three = modulo(four, 27), two = modulo(three, 9);
  // Multiples of 9 and of 85 end in the bits of the digit.
  return {_mm256_shuffle_epi8(low, two), _mm256_shuffle_epi8(high, two), _mm256_and_si256(_mm256_sub_epi8(three, two), mask),
          _mm256_shuffle_epi8(of_27, _mm256_sub_epi8(four, three)), _mm256_and_si256(_mm256_sub_epi8(v, four), mask)};
}
[[gnu::always_inline]] inline FiveDigits digits_at(const uint8_t* p) {
  return digits_of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// The groups that hold n_blocks blocks of an i2s panel, with a byte a code: 256 bytes a block, the four k of quad j side by side for all
// rows. As many bytes from `next` on are fetched meanwhile.
inline void unpack_trits(const uint8_t* block, int64_t n_blocks, const uint8_t* next, uint8_t* codes) {
  constexpr int64_t kCodes = 4 * kPanelBlockBytes;  // bytes of a block
  const auto put = [](uint8_t* at, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); };
  for (int64_t b = 0; b < n_blocks; b += kGroupBlocks, codes += kGroupBlocks * kCodes) {
    for (int64_t i = 0; i < 8; ++i, block += 32, next += 32) {
      if (i % 2 == 0) __builtin_prefetch(next);
      uint8_t* out = codes + i / 2 * kCodes + i % 2 * 32;
      const FiveDigits x = digits_at(block);
      put(out, x.d0);
      put(out + kPanelBlockBytes, x.d1);
      put(out + 2 * kPanelBlockBytes, x.d2);
      put(out + 3 * kPanelBlockBytes, x.d3);
      put(codes + 4 * kCodes + i * 32, x.d4);
    }
  }
}

}  // namespace
}  // namespace tritium
