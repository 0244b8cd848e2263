// Sixteen floats as a vector of the compiler's own, which it lowers to whatever the architecture's baseline has, and the few
// operations from which the float kernels are written. Standard integer and IEEE-754 arithmetic only.
#pragma once

#include <cstdint>
#include <cstring>

namespace tritium {
namespace {

struct lanes {
  typedef float vector __attribute__((vector_size(64)));
  vector v;
};

// Tiles of accumulators stay this small: the baseline has few registers.
constexpr int kAccumulators = 2;

inline lanes operator+(const lanes& a, const lanes& b) { return {a.v + b.v}; }
inline lanes operator-(const lanes& a, const lanes& b) { return {a.v - b.v}; }
inline lanes operator*(const lanes& a, const lanes& b) { return {a.v * b.v}; }
inline lanes operator/(const lanes& a, const lanes& b) { return {a.v / b.v}; }

inline lanes splat(float x) {
  lanes a;
  for (int i = 0; i < 16; ++i) a.v[i] = x;
  return a;
}
inline lanes load(const float* p) {
  lanes a;
  std::memcpy(&a.v, p, 64);
  return a;
}
inline lanes load_first(const float* p, int64_t n) {
  lanes a = splat(0.0f);
  for (int64_t i = 0; i < n; ++i) a.v[i] = p[i];
  return a;
}
inline void store(float* p, const lanes& a) { std::memcpy(p, &a.v, 64); }
inline void store_first(float* p, const lanes& a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.v[i];
}

// The second operand wherever one of the two is NaN, and where both are zero.
inline lanes max(const lanes& a, const lanes& b) {
  lanes y;
  for (int i = 0; i < 16; ++i) y.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return y;
}
inline lanes min(const lanes& a, const lanes& b) {
  lanes y;
  for (int i = 0; i < 16; ++i) y.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return y;
}

inline lanes keep_first(const lanes& a, int64_t n, float fill) {
  lanes y;
  for (int i = 0; i < 16; ++i) y.v[i] = i < n ? a.v[i] : fill;
  return y;
}
inline lanes zero_where_less(const lanes& x, const lanes& limit, const lanes& y) {
  lanes z;
  for (int i = 0; i < 16; ++i) z.v[i] = x.v[i] < limit.v[i] ? 0.0f : y.v[i];
  return z;
}
inline uint32_t greater(const lanes& a, const lanes& b) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(a.v[i] > b.v[i]) << i;
  return mask;
}

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// 2^n for integral n in the range of exponents; NaN, which no integer holds, becomes the pattern of the x86 conversion.
inline lanes power_of_two(const lanes& n) {
  lanes y;
  for (int i = 0; i < 16; ++i) {
    const float x = n.v[i];
    const uint32_t whole = x == x ? static_cast<uint32_t>(static_cast<int32_t>(x)) : 0x80000000u;
    y.v[i] = from_bits((whole + 127u) << 23);
  }
  return y;
}

inline float first(const lanes& a) { return a.v[0]; }

// The profile's tree: l + (l + 8), l + (l + 4), l + (l + 2), 0 + 1.
inline float tree_sum(const lanes& a) {
  float s[16];
  store(s, a);
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) s[l] = s[l] + s[l + half];
  }
  return s[0];
}

inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  const uint32_t mantissa = h & 0x3FFu;
  if (exponent == 31) return from_bits(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0) return from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // A denormal is mantissa · 2^-24: exact in float32.
  return from_bits(sign | to_bits(static_cast<float>(static_cast<int32_t>(mantissa)) * 5.9604644775390625e-8f));
}

// Round to nearest even; beyond float16 gives infinity, NaN a quiet NaN.
inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = to_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520, halfway to the first value beyond
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 aligns the float32 unit in the last place with the denormals' 2^-24, and rounds half to even.
    return static_cast<uint16_t>(sign | (to_bits(from_bits(magnitude) + 0.5f) - 0x3F000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude + 0xFFFu + odd - 0x38000000u) >> 13));
}

inline lanes from_f16_first(const uint16_t* p, int64_t n) {
  lanes a = splat(0.0f);
  for (int64_t i = 0; i < n; ++i) a.v[i] = f16_to_f32(p[i]);
  return a;
}
inline lanes from_f16(const uint16_t* p) { return from_f16_first(p, 16); }
inline lanes splat_f16(uint16_t half) { return splat(f16_to_f32(half)); }
inline void to_f16(uint16_t* p, const lanes& a) {
  for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(a.v[i]);
}
inline lanes from_bf16_first(const uint16_t* p, int64_t n) {
  lanes a = splat(0.0f);
  for (int64_t i = 0; i < n; ++i) a.v[i] = from_bits(static_cast<uint32_t>(p[i]) << 16);
  return a;
}
inline lanes from_bf16(const uint16_t* p) { return from_bf16_first(p, 16); }
inline lanes from_i8(const int8_t* p) {
  lanes a;
  for (int i = 0; i < 16; ++i) a.v[i] = static_cast<float>(p[i]);
  return a;
}

// Round half to even and saturate; |x| < 2^22, where adding 1.5·2^23 leaves no bit behind the point.
inline void to_i8(int8_t* p, const lanes& a) {
  constexpr float magic = 12582912.0f;
  for (int i = 0; i < 16; ++i) {
    const float rounded = (a.v[i] + magic) - magic;
    p[i] = static_cast<int8_t>(rounded > 127.0f ? 127 : rounded < -128.0f ? -128 : static_cast<int32_t>(rounded));
  }
}

// Greatest |x| of many lanes as an integer, in which infinities and NaN come out on top.
struct magnitude {
  uint32_t bits;
};
inline magnitude no_magnitude() { return {0}; }
inline magnitude raise(magnitude m, const lanes& a) {
  for (int i = 0; i < 16; ++i) {
    const uint32_t absolute = to_bits(a.v[i]) & 0x7FFFFFFFu;
    m.bits = absolute > m.bits ? absolute : m.bits;
  }
  return m;
}
inline uint32_t greatest(magnitude m) { return m.bits; }

// The 256 codes of a Q6_K block, minus 32: 128 bytes of low nibbles, 64 of high bit pairs → 256 int8.
inline void q6_k_codes(const uint8_t* block, int8_t* codes) {
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int nibble = (block[64 * half + i % 64] >> (4 * (i / 64 % 2))) & 15;
    const int pair = (block[128 + 32 * half + i % 32] >> (2 * (i / 32 % 4))) & 3;
    codes[i] = static_cast<int8_t>((nibble | (pair << 4)) - 32);
  }
}

}  // namespace
}  // namespace tritium
