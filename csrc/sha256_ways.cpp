#include "sha256_ways.h"

#include <algorithm>
#include <bit>

#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tritium {

namespace {

alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

bool always() { return true; }

uint32_t big_endian(const uint8_t* p) { return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3]; }

// Sixteen words in a ring; the eight of the state change places by their indices, which are constants once the loop is unrolled.
void compress_portably(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
  uint32_t* const state = states[0];
  for (const uint8_t *block = blocks[0], *stop = block + 64 * n; block < stop; block += 64) {
    uint32_t w[16], s[8];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(block + 4 * i);
    std::copy_n(state, 8, s);
    for (int first = 0; first < 64; first += 16) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (first > 0) {
          const uint32_t a = w[(i + 1) % 16], b = w[(i + 14) % 16];
          w[i] += (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[(i + 9) % 16] + (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
        }
        const auto at = [&](int j) -> uint32_t& { return s[(j - i + 16) % 8]; };
        const uint32_t a = at(0), b = at(1), c = at(2), e = at(4), f = at(5), g = at(6);
        const uint32_t t = at(7) + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + (g ^ (e & (f ^ g))) + kRound[first + i] + w[i];
        at(3) += t;
        at(7) = t + (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + (b ^ ((a ^ b) & (b ^ c)));
      }
    }
    for (int i = 0; i < 8; ++i) state[i] += s[i];
  }
}

#if defined(__x86_64__)

// Source: Intel SHA extensions, new instructions supporting the secure hash algorithm on Intel architecture processors, 2013.
template <int kStates>
__attribute__((target("sha,sse4.1"))) void compress_by_instructions(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i abef[kStates], cdgh[kStates], abef_before[kStates], cdgh_before[kStates], w[kStates][4];
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) {
    const __m128i low = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(states[k])), 0xb1);
    const __m128i high = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(states[k] + 4)), 0x1b);
    abef[k] = _mm_alignr_epi8(low, high, 8), cdgh[k] = _mm_blend_epi16(high, low, 0xf0);
  }
  for (size_t at = 0; at < 64 * n; at += 64) {
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abef_before[k] = abef[k], cdgh_before[k] = cdgh[k];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) w[k][i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks[k] + at) + i), swap);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
#pragma GCC unroll 4
      for (int k = 0; k < kStates; ++k) {
        const __m128i m = _mm_add_epi32(w[k][i & 3], _mm_load_si128(reinterpret_cast<const __m128i*>(kRound) + i));
        cdgh[k] = _mm_sha256rnds2_epu32(cdgh[k], abef[k], m);
        abef[k] = _mm_sha256rnds2_epu32(abef[k], cdgh[k], _mm_shuffle_epi32(m, 0x0e));
        if (i < 12) {
          const __m128i next = w[k][(i + 3) & 3];
          const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[k][i & 3], w[k][(i + 1) & 3]), _mm_alignr_epi8(next, w[k][(i + 2) & 3], 4));
          w[k][i & 3] = _mm_sha256msg2_epu32(sum, next);
        }
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abef[k] = _mm_add_epi32(abef[k], abef_before[k]);
      cdgh[k] = _mm_add_epi32(cdgh[k], cdgh_before[k]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) {
    const __m128i feba = _mm_shuffle_epi32(abef[k], 0x1b), dchg = _mm_shuffle_epi32(cdgh[k], 0xb1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states[k]), _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states[k] + 4), _mm_alignr_epi8(dchg, feba, 8));
  }
}

#define TRITIUM_AVX2 __attribute__((target("avx2"), always_inline)) inline

template <int kBits>
TRITIUM_AVX2 __m256i turned(__m256i x) {
  return _mm256_or_si256(_mm256_srli_epi32(x, kBits), _mm256_slli_epi32(x, 32 - kBits));
}
TRITIUM_AVX2 __m256i exclusive_or(__m256i a, __m256i b, __m256i c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
TRITIUM_AVX2 __m256i plus(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }

// An 8 × 8 matrix of words, a row a vector.
TRITIUM_AVX2 void transpose(__m256i* m) {
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

// Eight strings side by side, one in each lane of the vectors.
__attribute__((target("avx2"))) void compress_in_vectors(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
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
    std::copy_n(before, 8, s);
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
        const __m256i chosen = _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g)));
        const __m256i most = _mm256_xor_si256(b, _mm256_and_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(b, c)));
        const __m256i word = plus(w[i], _mm256_set1_epi32(static_cast<int>(kRound[first + i])));
        const __m256i t = plus(plus(h, word), plus(chosen, exclusive_or(turned<6>(e), turned<11>(e), turned<25>(e))));
        d = plus(d, t);
        h = plus(t, plus(most, exclusive_or(turned<2>(a), turned<13>(a), turned<22>(a))));
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) before[i] = plus(before[i], s[i]);
  }
  transpose(before);
  for (int i = 0; i < 8; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(states[i]), before[i]);
}

#undef TRITIUM_AVX2

#elif defined(__aarch64__)

// Source: Arm architecture reference manual, SHA256H, SHA256H2, SHA256SU0 and SHA256SU1.
template <int kStates>
__attribute__((target("+crypto"))) void compress_by_instructions(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
  uint32x4_t abcd[kStates], efgh[kStates], abcd_before[kStates], efgh_before[kStates], w[kStates][4];
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) abcd[k] = vld1q_u32(states[k]), efgh[k] = vld1q_u32(states[k] + 4);
  for (size_t at = 0; at < 64 * n; at += 64) {
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abcd_before[k] = abcd[k], efgh_before[k] = efgh[k];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) w[k][i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks[k] + at + 16 * i)));
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
#pragma GCC unroll 4
      for (int k = 0; k < kStates; ++k) {
        const uint32x4_t m = vaddq_u32(w[k][i & 3], vld1q_u32(kRound + 4 * i));
        const uint32x4_t before = abcd[k];
        abcd[k] = vsha256hq_u32(abcd[k], efgh[k], m);
        efgh[k] = vsha256h2q_u32(efgh[k], before, m);
        if (i < 12) w[k][i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[k][i & 3], w[k][(i + 1) & 3]), w[k][(i + 2) & 3], w[k][(i + 3) & 3]);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abcd[k] = vaddq_u32(abcd[k], abcd_before[k]);
      efgh[k] = vaddq_u32(efgh[k], efgh_before[k]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) {
    vst1q_u32(states[k], abcd[k]);
    vst1q_u32(states[k] + 4, efgh[k]);
  }
}

#endif

constexpr Sha256Way kWays[] = {
#if defined(__x86_64__) || defined(__aarch64__)
    // Each round waits for the one before it in its string; others fill the wait.
    {"instructions", cpu_has_sha256, 3, compress_by_instructions<1>, compress_by_instructions<3>},
#endif
#if defined(__x86_64__)
    {"vectors", cpu_has_avx2, 8, compress_portably, compress_in_vectors},
#endif
    {"portable", always, 1, compress_portably, compress_portably},
};

}  // namespace

std::span<const Sha256Way> sha256_ways() { return kWays; }

const Sha256Way& fastest_sha256() {
  static const Sha256Way& way = *std::find_if(std::begin(kWays), std::end(kWays), [](const Sha256Way& w) { return w.usable(); });
  return way;
}

}  // namespace tritium
