// Sixteen floats in four 128-bit registers, and the few operations from which the float kernels are written. Baseline armv8-a:
// no fused multiply-add, and none of its estimates.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace tritium {
namespace {

struct lanes {
  float32x4_t a, b, c, d;
};

// Quartets of registers that a tile of accumulators may occupy, of eight.
constexpr int kAccumulators = 4;

inline lanes operator+(lanes x, lanes y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
inline lanes operator-(lanes x, lanes y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
inline lanes operator*(lanes x, lanes y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
inline lanes operator/(lanes x, lanes y) {
  return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}

inline lanes splat(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
// What multiplies lanes again and again, for `factor * lanes`.
inline lanes factor_at(const float* p) { return splat(*p); }
inline lanes load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
inline lanes from_i32(const int32_t* p) {
  return {vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4)), vcvtq_f32_s32(vld1q_s32(p + 8)), vcvtq_f32_s32(vld1q_s32(p + 12))};
}
inline void store(float* p, lanes x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
// Arm has no masked access: the first n lanes go through memory that is there.
inline lanes load_first(const float* p, int64_t n) {
  float padded[16] = {};
  for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}
inline void store_first(float* p, lanes x, int64_t n) {
  if (n == 16) return store(p, x);
  float all[16];
  store(all, x);
  for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}

// The second operand wherever one of the two is NaN, and where both are zero: fmax and fmin have rules of their own.
inline float32x4_t max(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline float32x4_t min(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline lanes max(lanes x, lanes y) { return {max(x.a, y.a), max(x.b, y.b), max(x.c, y.c), max(x.d, y.d)}; }
inline lanes min(lanes x, lanes y) { return {min(x.a, y.a), min(x.b, y.b), min(x.c, y.c), min(x.d, y.d)}; }

// All bits of the lanes whose index, counted from `from`, is below n.
inline uint32x4_t first_lanes(int64_t n, int from) {
  const int32_t index[4] = {from, from + 1, from + 2, from + 3};
  return vcltq_s32(vld1q_s32(index), vdupq_n_s32(static_cast<int32_t>(n)));
}
inline lanes keep_first(lanes x, int64_t n, float fill) {
  const float32x4_t f = vdupq_n_f32(fill);
  return {vbslq_f32(first_lanes(n, 0), x.a, f), vbslq_f32(first_lanes(n, 4), x.b, f), vbslq_f32(first_lanes(n, 8), x.c, f),
          vbslq_f32(first_lanes(n, 12), x.d, f)};
}
inline float32x4_t zero_where_less(float32x4_t x, float32x4_t limit, float32x4_t y) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, limit)));
}
inline lanes zero_where_less(lanes x, lanes limit, lanes y) {
  return {zero_where_less(x.a, limit.a, y.a), zero_where_less(x.b, limit.b, y.b), zero_where_less(x.c, limit.c, y.c),
          zero_where_less(x.d, limit.d, y.d)};
}
// Bit l is set where lane l of x is the greater one.
inline uint32_t greater(lanes x, lanes y) {
  constexpr uint32_t kBits[4] = {1, 2, 4, 8};
  const uint32x4_t bits = vld1q_u32(kBits);
  const uint32x4_t a = vandq_u32(vcgtq_f32(x.a, y.a), bits), b = vandq_u32(vcgtq_f32(x.b, y.b), bits);
  const uint32x4_t c = vandq_u32(vcgtq_f32(x.c, y.c), bits), d = vandq_u32(vcgtq_f32(x.d, y.d), bits);
  const uint32x4_t low = vorrq_u32(a, vshlq_n_u32(b, 4)), high = vorrq_u32(c, vshlq_n_u32(d, 4));
  return vaddvq_u32(vorrq_u32(low, vshlq_n_u32(high, 8)));
}

// 2^n for integral n in the range of exponents; NaN gives 1.
inline float32x4_t power_of_two(float32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline lanes power_of_two(lanes n) { return {power_of_two(n.a), power_of_two(n.b), power_of_two(n.c), power_of_two(n.d)}; }

inline float first(lanes x) { return vgetq_lane_f32(x.a, 0); }

// The profile's tree: l + (l + 8), l + (l + 4), l + (l + 2), 0 + 1.
inline float tree_sum(lanes x) {
  const float32x4_t s = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t pair = vadd_f32(vget_low_f32(s), vget_high_f32(s));
  return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}

inline float32x4_t widen_f16(uint16x4_t half) { return vcvt_f32_f16(vreinterpret_f16_u16(half)); }
inline lanes from_f16(const uint16_t* p) {
  return {widen_f16(vld1_u16(p)), widen_f16(vld1_u16(p + 4)), widen_f16(vld1_u16(p + 8)), widen_f16(vld1_u16(p + 12))};
}
inline lanes splat_f16(uint16_t half) {
  const float32x4_t x = widen_f16(vdup_n_u16(half));
  return {x, x, x, x};
}
// Round to nearest even; beyond float16 gives infinity.
inline void to_f16(uint16_t* p, lanes x) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x.a)));
  vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32(x.b)));
  vst1_u16(p + 8, vreinterpret_u16_f16(vcvt_f16_f32(x.c)));
  vst1_u16(p + 12, vreinterpret_u16_f16(vcvt_f16_f32(x.d)));
}
inline float32x4_t widen_bf16(uint16x4_t half) { return vreinterpretq_f32_u32(vshll_n_u16(half, 16)); }
inline lanes from_bf16(const uint16_t* p) {
  return {widen_bf16(vld1_u16(p)), widen_bf16(vld1_u16(p + 4)), widen_bf16(vld1_u16(p + 8)), widen_bf16(vld1_u16(p + 12))};
}

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

inline lanes from_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}

// Round half to even and saturate.
inline void to_i8(int8_t* p, lanes x) {
  const int16x8_t low = vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(x.a)), vcvtnq_s32_f32(x.b));
  const int16x8_t high = vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(x.c)), vcvtnq_s32_f32(x.d));
  vst1q_s8(p, vqmovn_high_s16(vqmovn_s16(low), high));
}

// Greatest |x| of many lanes as an integer, in which infinities and NaN come out on top.
struct magnitude {
  uint32x4_t bits;
};
inline magnitude no_magnitude() { return {vdupq_n_u32(0)}; }
inline uint32x4_t absolute(float32x4_t x) { return vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7FFFFFFF)); }
inline magnitude raise(magnitude m, lanes x) {
  const uint32x4_t low = vmaxq_u32(absolute(x.a), absolute(x.b)), high = vmaxq_u32(absolute(x.c), absolute(x.d));
  return {vmaxq_u32(m.bits, vmaxq_u32(low, high))};
}
inline uint32_t greatest(magnitude m) { return vmaxvq_u32(m.bits); }

inline void q6_k_store(int8_t* codes, uint8x16_t nibbles, uint8x16_t pairs) {
  const uint8x16_t code = vorrq_u8(vandq_u8(nibbles, vdupq_n_u8(0x0F)), vandq_u8(pairs, vdupq_n_u8(0x30)));
  vst1q_s8(codes, vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(32)));
}
// The 256 codes of a Q6_K block, minus 32: 128 bytes of low nibbles, 64 of high bit pairs → 256 int8.
inline void q6_k_codes(const uint8_t* block, int8_t* codes) {
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 32; i += 16) {
      const uint8x16_t low0 = vld1q_u8(block + 64 * half + i), low1 = vld1q_u8(block + 64 * half + 32 + i);
      const uint8x16_t high = vld1q_u8(block + 128 + 32 * half + i);
      int8_t* out = codes + 128 * half + i;
      q6_k_store(out, low0, vshlq_n_u8(high, 4));
      q6_k_store(out + 32, low1, vshlq_n_u8(high, 2));
      q6_k_store(out + 64, vshrq_n_u8(low0, 4), high);
      q6_k_store(out + 96, vshrq_n_u8(low1, 4), vshrq_n_u8(high, 2));
    }
  }
}

}  // namespace
}  // namespace tritium
