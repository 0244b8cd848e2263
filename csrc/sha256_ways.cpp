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
        const uint32_t t = at(7) + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + (g ^ (e & (f ^ g))) + kSha256Round[first + i] + w[i];
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
        const __m128i m = _mm_add_epi32(w[k][i & 3], _mm_load_si128(reinterpret_cast<const __m128i*>(kSha256Round) + i));
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
        const uint32x4_t m = vaddq_u32(w[k][i & 3], vld1q_u32(kSha256Round + 4 * i));
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
    {"avx512vnni", cpu_has_avx512vnni, 8, compress_portably, tritium_sha256_avx512vnni},
    {"avx2", cpu_has_avx2, 8, compress_portably, tritium_sha256_avx2},
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
