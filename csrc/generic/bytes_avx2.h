// Bytes in 256-bit registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

[[gnu::always_inline]] inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
[[gnu::always_inline]] inline void store_256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

// Four activations in every lane of 32 bits.
[[gnu::always_inline]] inline __m256i four(const int8_t* a) {
  int32_t word;
  __builtin_memcpy(&word, a, 4);
  return _mm256_set1_epi32(word);
}

// Bits shift and shift + 1 of every byte.
[[gnu::always_inline]] inline __m256i codes_of(__m256i packed, int shift) {
  return _mm256_and_si256(_mm256_srli_epi32(packed, shift), _mm256_set1_epi8(3));
}

}  // namespace
}  // namespace tritium
