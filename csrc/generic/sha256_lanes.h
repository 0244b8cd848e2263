// SHA-256 of eight strings, one in each lane of the vectors. Nothing of the standard library: what a unit instantiates for its own
// instruction set must not be merged into another.
#pragma once

#include <immintrin.h>

#include "generic/kernel_names.h"
#include "sha256_ways.h"

namespace tritium {
namespace {

inline __m256i plus(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }

#if defined(__AVX512VL__)

// Tables of three inputs: bit 4·a + 2·b + c of each is the result.
constexpr int kParity = 0x96, kChoice = 0xca, kMajority = 0xe8;

template <int kBits>
inline __m256i turned(__m256i x) {
  return _mm256_ror_epi32(x, kBits);
}
inline __m256i exclusive_or(__m256i a, __m256i b, __m256i c) { return _mm256_ternarylogic_epi32(a, b, c, kParity); }
inline __m256i chosen(__m256i e, __m256i f, __m256i g) { return _mm256_ternarylogic_epi32(e, f, g, kChoice); }
inline __m256i most(__m256i a, __m256i b, __m256i c) { return _mm256_ternarylogic_epi32(a, b, c, kMajority); }

#else

template <int kBits>
inline __m256i turned(__m256i x) {
  return _mm256_or_si256(_mm256_srli_epi32(x, kBits), _mm256_slli_epi32(x, 32 - kBits));
}
inline __m256i exclusive_or(__m256i a, __m256i b, __m256i c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
inline __m256i chosen(__m256i e, __m256i f, __m256i g) { return _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g))); }
inline __m256i most(__m256i a, __m256i b, __m256i c) {
  return _mm256_xor_si256(b, _mm256_and_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(b, c)));
}

#endif

// An 8 × 8 matrix of words, a row a vector.
inline void transpose(__m256i* m) {
  __m256i pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32(m[i], m[i + 1]), pairs[i + 1] = _mm256_unpackhi_epi32(m[i], m[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm256_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
      fours[i + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    m[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20), m[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
  }
}

}  // namespace

extern "C" void TRITIUM_PASTE(tritium_sha256, TRITIUM_ISA)(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
  const __m256i swap = _mm256_setr_epi64x(0x0405060700010203, 0x0c0d0e0f08090a0b, 0x0405060700010203, 0x0c0d0e0f08090a0b);
  __m256i before[8];
  for (int i = 0; i < 8; ++i) before[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(states[i]));
  transpose(before);
  for (size_t block = 0; block < 64 * n; block += 64) {
    __m256i w[16], s[8];
    for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks[i] + block) + half);
        w[8 * half + i] = _mm256_shuffle_epi8(words, swap);
      }
      transpose(w + 8 * half);
    }
    for (int i = 0; i < 8; ++i) s[i] = before[i];
    for (int first = 0; first < 64; first += 16) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (first > 0) {
          const __m256i x = w[(i + 1) % 16], y = w[(i + 14) % 16];
          const __m256i low = exclusive_or(turned<7>(x), turned<18>(x), _mm256_srli_epi32(x, 3));
          const __m256i high = exclusive_or(turned<17>(y), turned<19>(y), _mm256_srli_epi32(y, 10));
          w[i] = plus(plus(w[i], low), plus(w[(i + 9) % 16], high));
        }
        __m256i &a = s[(16 - i) % 8], &b = s[(17 - i) % 8], &c = s[(18 - i) % 8], &d = s[(19 - i) % 8];
        __m256i &e = s[(20 - i) % 8], &f = s[(21 - i) % 8], &g = s[(22 - i) % 8], &h = s[(23 - i) % 8];
        const __m256i word = plus(w[i], _mm256_set1_epi32(static_cast<int>(kSha256Round[first + i])));
        const __m256i t = plus(plus(h, word), plus(chosen(e, f, g), exclusive_or(turned<6>(e), turned<11>(e), turned<25>(e))));
        d = plus(d, t);
        h = plus(t, plus(most(a, b, c), exclusive_or(turned<2>(a), turned<13>(a), turned<22>(a))));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) before[i] = plus(before[i], s[i]);
  }
  transpose(before);
  for (int i = 0; i < 8; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(states[i]), before[i]);
}

}  // namespace tritium
