// Sixteen floats in one 512-bit register, and the few operations from which the float kernels are written.
#pragma once

#include <immintrin.h>

#include <cstdint>

// gcc 12 takes the undefined register that its own intrinsics start from for a mistake of ours.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace tritium {
namespace {

struct lanes {
  __m512 v;
};

// Registers that a tile of accumulators may occupy.
constexpr int kAccumulators = 16;

inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline lanes operator+(lanes a, lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline lanes operator-(lanes a, lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline lanes operator*(lanes a, lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline lanes operator/(lanes a, lanes b) { return {_mm512_div_ps(a.v, b.v)}; }

inline lanes splat(float x) { return {_mm512_set1_ps(x)}; }
// What multiplies lanes again and again, for `factor * lanes`: left in memory, because a multiplication that spreads it takes no
// more of the arithmetic units than one that does not, while spreading it into a register beforehand does (Zen 4).
struct factor {
  const float* p;
};
inline factor factor_at(const float* p) { return {p}; }
inline lanes operator*(factor a, lanes b) {
  __m512 product;
  asm("vmulps %2%{1to16%}, %1, %0" : "=v"(product) : "v"(b.v), "m"(*a.p));
  return {product};
}
inline lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline lanes load_first(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline lanes from_i32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
inline void store(float* p, lanes a) { _mm512_storeu_ps(p, a.v); }
inline void store_first(float* p, lanes a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

// The second operand wherever one of the two is NaN, and where both are zero.
inline lanes max(lanes a, lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
inline lanes min(lanes a, lanes b) { return {_mm512_min_ps(a.v, b.v)}; }

inline lanes keep_first(lanes a, int64_t n, float fill) {
  return {_mm512_mask_blend_ps(first_lanes(n), _mm512_set1_ps(fill), a.v)};
}
inline lanes zero_where_less(lanes x, lanes limit, lanes y) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), y.v)};
}
inline uint32_t greater(lanes a, lanes b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }

// 2^n for integral n in the range of exponents.
inline lanes power_of_two(lanes n) {
  const __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
}

inline float first(lanes a) { return _mm512_cvtss_f32(a.v); }

// The profile's tree: l + (l + 8), l + (l + 4), l + (l + 2), 0 + 1.
inline float tree_sum(lanes a) {
  const __m256 a8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 a4 = _mm_add_ps(_mm256_castps256_ps128(a8), _mm256_extractf128_ps(a8, 1));
  const __m128 a2 = _mm_add_ps(a4, _mm_movehl_ps(a4, a4));
  return _mm_cvtss_f32(_mm_add_ss(a2, _mm_shuffle_ps(a2, a2, 1)));
}

inline lanes from_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline lanes from_f16_first(const uint16_t* p, int64_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}
inline lanes splat_f16(uint16_t half) { return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(half)))}; }
// Round to nearest even; beyond float16 gives infinity.
inline void to_f16(uint16_t* p, lanes a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline lanes widen_bf16(__m256i half) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline lanes from_bf16(const uint16_t* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline lanes from_bf16_first(const uint16_t* p, int64_t n) {
  return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
inline lanes from_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

// Round half to even and saturate.
inline void to_i8(int8_t* p, lanes a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

// Greatest |x| of many lanes as an integer, in which infinities and NaN come out on top.
struct magnitude {
  __m512i bits;
};
inline magnitude no_magnitude() { return {_mm512_setzero_si512()}; }
inline magnitude raise(magnitude m, lanes a) {
  const __m512i absolute = _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7FFFFFFF));
  return {_mm512_max_epu32(m.bits, absolute)};
}
inline uint32_t greatest(magnitude m) { return _mm512_reduce_max_epu32(m.bits); }

// The 256 codes of a Q6_K block, minus 32: 128 bytes of low nibbles, 64 of high bit pairs → 256 int8.
inline void q6_k_codes(const uint8_t* block, int8_t* codes) {
  const __m512i nibble = _mm512_set1_epi8(0x0F);
  const __m512i pair = _mm512_set1_epi8(0x30);
  const __m512i bias = _mm512_set1_epi8(32);
  for (int half = 0; half < 2; ++half) {
    const __m512i low = _mm512_loadu_si512(block + 64 * half);
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 128 + 32 * half));
    // Bits 4 and 5 of every byte: pairs 0 and 1 of a byte beside the low nibbles, 2 and 3 beside the high ones.
    const __m256i high0 = _mm256_slli_epi16(high, 4);
    const __m256i high1 = _mm256_slli_epi16(high, 2);
    const __m256i high3 = _mm256_srli_epi16(high, 2);
    const __m512i first = _mm512_inserti64x4(_mm512_castsi256_si512(high0), high1, 1);
    const __m512i second = _mm512_inserti64x4(_mm512_castsi256_si512(high), high3, 1);
    const __m512i even = _mm512_or_si512(_mm512_and_si512(low, nibble), _mm512_and_si512(first, pair));
    const __m512i odd = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low, 4), nibble), _mm512_and_si512(second, pair));
    _mm512_storeu_si512(codes + 128 * half, _mm512_sub_epi8(even, bias));
    _mm512_storeu_si512(codes + 128 * half + 64, _mm512_sub_epi8(odd, bias));
  }
}

}  // namespace
}  // namespace tritium
