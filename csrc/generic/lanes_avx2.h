// Sixteen floats in two 256-bit registers, and the few operations from which the float kernels are written.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

struct lanes {
  __m256 lo, hi;
};

// Pairs of registers that a tile of accumulators may occupy.
constexpr int kAccumulators = 4;

// All bits of the dwords whose index is below n.
inline __m256i first_dwords(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline lanes operator+(lanes a, lanes b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline lanes operator-(lanes a, lanes b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline lanes operator*(lanes a, lanes b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline lanes operator/(lanes a, lanes b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }

inline lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
// What multiplies lanes again and again, for `factor * lanes`.
inline lanes factor_at(const float* p) { return splat(*p); }
inline lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline lanes load_first(const float* p, int64_t n) {
  if (n >= 16) return load(p);
  return {_mm256_maskload_ps(p, first_dwords(n)), _mm256_maskload_ps(p + 8, first_dwords(n - 8))};
}
inline lanes from_i32(const int32_t* p) {
  const auto* v = reinterpret_cast<const __m256i*>(p);
  return {_mm256_cvtepi32_ps(_mm256_loadu_si256(v)), _mm256_cvtepi32_ps(_mm256_loadu_si256(v + 1))};
}
inline void store(float* p, lanes a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
// Whole registers first: a masked store costs as much as twenty whole ones.
inline void store_first(float* p, lanes a, int64_t n) {
  if (n >= 16) return store(p, a);
  _mm256_maskstore_ps(p, first_dwords(n), a.lo);
  _mm256_maskstore_ps(p + 8, first_dwords(n - 8), a.hi);
}

// The second operand wherever one of the two is NaN, and where both are zero.
inline lanes max(lanes a, lanes b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline lanes min(lanes a, lanes b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }

inline lanes keep_first(lanes a, int64_t n, float fill) {
  const __m256 f = _mm256_set1_ps(fill);
  return {_mm256_blendv_ps(f, a.lo, _mm256_castsi256_ps(first_dwords(n))),
          _mm256_blendv_ps(f, a.hi, _mm256_castsi256_ps(first_dwords(n - 8)))};
}
inline lanes zero_where_less(lanes x, lanes limit, lanes y) {
  return {_mm256_and_ps(y.lo, _mm256_cmp_ps(x.lo, limit.lo, _CMP_NLT_UQ)),
          _mm256_and_ps(y.hi, _mm256_cmp_ps(x.hi, limit.hi, _CMP_NLT_UQ))};
}
inline uint32_t greater(lanes a, lanes b) {
  const uint32_t lo = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)));
  const uint32_t hi = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ)));
  return lo | (hi << 8);
}

inline __m256 power_of_two(__m256 n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
// 2^n for integral n in the range of exponents.
inline lanes power_of_two(lanes n) { return {power_of_two(n.lo), power_of_two(n.hi)}; }

inline float first(lanes a) { return _mm256_cvtss_f32(a.lo); }

// The profile's tree: l + (l + 8), l + (l + 4), l + (l + 2), 0 + 1.
inline float tree_sum(lanes a) {
  const __m256 a8 = _mm256_add_ps(a.lo, a.hi);
  const __m128 a4 = _mm_add_ps(_mm256_castps256_ps128(a8), _mm256_extractf128_ps(a8, 1));
  const __m128 a2 = _mm_add_ps(a4, _mm_movehl_ps(a4, a4));
  return _mm_cvtss_f32(_mm_add_ss(a2, _mm_shuffle_ps(a2, a2, 1)));
}

inline __m128i load_u16x8(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

inline lanes from_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load_u16x8(p)), _mm256_cvtph_ps(load_u16x8(p + 8))}; }
inline lanes splat_f16(uint16_t half) {
  const __m256 x = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(half)));
  return {x, x};
}
// Round to nearest even; beyond float16 gives infinity.
inline void to_f16(uint16_t* p, lanes a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256 widen_bf16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline lanes from_bf16(const uint16_t* p) { return {widen_bf16(load_u16x8(p)), widen_bf16(load_u16x8(p + 8))}; }

inline void copy_first(uint16_t* to, const uint16_t* from, int64_t n) {
  for (int64_t i = 0; i < 16; ++i) to[i] = i < n ? from[i] : uint16_t{0};
}
inline lanes from_f16_first(const uint16_t* p, int64_t n) {
  uint16_t padded[16];
  copy_first(padded, p, n);
  return from_f16(padded);
}
inline lanes from_bf16_first(const uint16_t* p, int64_t n) {
  uint16_t padded[16];
  copy_first(padded, p, n);
  return from_bf16(padded);
}
inline __m256 widen_i8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline lanes from_i8(const int8_t* p) { return {widen_i8(p), widen_i8(p + 8)}; }

// Round half to even and saturate.
inline void to_i8(int8_t* p, lanes a) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

// Greatest |x| of many lanes as an integer, in which infinities and NaN come out on top.
struct magnitude {
  __m256i bits;
};
inline magnitude no_magnitude() { return {_mm256_setzero_si256()}; }
inline magnitude raise(magnitude m, lanes a) {
  const __m256i absolute = _mm256_set1_epi32(0x7FFFFFFF);
  const __m256i lo = _mm256_and_si256(_mm256_castps_si256(a.lo), absolute);
  const __m256i hi = _mm256_and_si256(_mm256_castps_si256(a.hi), absolute);
  return {_mm256_max_epu32(m.bits, _mm256_max_epu32(lo, hi))};
}
inline uint32_t greatest(magnitude m) {
  __m128i a = _mm_max_epu32(_mm256_castsi256_si128(m.bits), _mm256_extracti128_si256(m.bits, 1));
  a = _mm_max_epu32(a, _mm_unpackhi_epi64(a, a));
  a = _mm_max_epu32(a, _mm_shuffle_epi32(a, 1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(a));
}

inline void q6_k_store(int8_t* codes, __m256i nibbles, __m256i pairs) {
  const __m256i low = _mm256_and_si256(nibbles, _mm256_set1_epi8(0x0F));
  const __m256i high = _mm256_and_si256(pairs, _mm256_set1_epi8(0x30));
  const __m256i code = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), code);
}
// The 256 codes of a Q6_K block, minus 32: 128 bytes of low nibbles, 64 of high bit pairs → 256 int8.
inline void q6_k_codes(const uint8_t* block, int8_t* codes) {
  for (int half = 0; half < 2; ++half) {
    const __m256i low0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 64 * half));
    const __m256i low1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 64 * half + 32));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 128 + 32 * half));
    int8_t* out = codes + 128 * half;
    q6_k_store(out, low0, _mm256_slli_epi16(high, 4));
    q6_k_store(out + 32, low1, _mm256_slli_epi16(high, 2));
    q6_k_store(out + 64, _mm256_srli_epi16(low0, 4), high);
    q6_k_store(out + 96, _mm256_srli_epi16(low1, 4), _mm256_srli_epi16(high, 2));
  }
}

}  // namespace
}  // namespace tritium
