// Sixteen floats as four vectors of the compiler's own, which it lowers to whatever the architecture's baseline has, and the few
// operations from which the float kernels are written. Wider vectors would cross gcc's splats through memory.
#pragma once

#include <cstdint>
#include <cstring>

namespace tritium {
namespace {

using floats = float __attribute__((vector_size(16)));
using words = uint32_t __attribute__((vector_size(16)));
using integers = int32_t __attribute__((vector_size(16)));

struct lanes {
  floats a, b, c, d;
};

// Tiles of accumulators stay this small: the baseline has few registers.
constexpr int kAccumulators = 2;

// f on each quarter.
template <class F>
[[gnu::always_inline]] inline lanes map(const F& f, const lanes& x) {
  return {f(x.a), f(x.b), f(x.c), f(x.d)};
}
template <class F>
[[gnu::always_inline]] inline lanes map(const F& f, const lanes& x, const lanes& y) {
  return {f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)};
}

inline lanes operator+(const lanes& x, const lanes& y) { return {x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d}; }
inline lanes operator-(const lanes& x, const lanes& y) { return {x.a - y.a, x.b - y.b, x.c - y.c, x.d - y.d}; }
inline lanes operator*(const lanes& x, const lanes& y) { return {x.a * y.a, x.b * y.b, x.c * y.c, x.d * y.d}; }
inline lanes operator/(const lanes& x, const lanes& y) { return {x.a / y.a, x.b / y.b, x.c / y.c, x.d / y.d}; }

inline lanes splat(float x) {
  const floats q{x, x, x, x};
  return {q, q, q, q};
}
// What multiplies lanes again and again, for `factor * lanes`.
inline lanes factor_at(const float* p) { return splat(*p); }
inline lanes load(const float* p) {
  lanes x;
  std::memcpy(&x, p, 64);
  return x;
}
inline lanes load_first(const float* p, int64_t n) {
  lanes x{};
  std::memcpy(&x, p, static_cast<size_t>(4 * n));
  return x;
}
inline floats from_four_i32(const int32_t* p) {
  integers x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, floats);
}
inline lanes from_i32(const int32_t* p) {
  return {from_four_i32(p), from_four_i32(p + 4), from_four_i32(p + 8), from_four_i32(p + 12)};
}
inline void store(float* p, const lanes& x) { std::memcpy(p, &x, 64); }
inline void store_first(float* p, const lanes& x, int64_t n) { std::memcpy(p, &x, static_cast<size_t>(4 * n)); }

// The second operand wherever one of the two is NaN, and where both are zero.
inline lanes max(const lanes& x, const lanes& y) {
  return map([](floats l, floats r) { return l > r ? l : r; }, x, y);
}
inline lanes min(const lanes& x, const lanes& y) {
  return map([](floats l, floats r) { return l < r ? l : r; }, x, y);
}

inline lanes keep_first(const lanes& x, int64_t n, float fill) {
  lanes y = splat(fill);
  std::memcpy(&y, &x, static_cast<size_t>(4 * n));
  return y;
}
inline lanes zero_where_less(const lanes& x, const lanes& limit, const lanes& y) {
  const lanes mask = map([](floats l, floats r) { return reinterpret_cast<floats>(~(l < r)); }, x, limit);
  return map([](floats m, floats q) { return reinterpret_cast<floats>(reinterpret_cast<words>(m) & reinterpret_cast<words>(q)); },
             mask, y);
}
inline uint32_t greater(const lanes& x, const lanes& y) {
  float l[16], r[16];
  store(l, x);
  store(r, y);
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(l[i] > r[i]) << i;
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

// 2^n for integral n in the range of exponents; something for NaN, whose product with it is NaN again.
inline lanes power_of_two(const lanes& n) {
  return map(
      [](floats q) {
        const words exponent = reinterpret_cast<words>(__builtin_convertvector(q, integers)) + 127u;
        return reinterpret_cast<floats>(exponent << 23);
      },
      n);
}

inline float first(const lanes& x) { return x.a[0]; }

// The profile's tree: l + (l + 8), l + (l + 4), l + (l + 2), 0 + 1.
inline float tree_sum(const lanes& x) {
  const floats y = (x.a + x.c) + (x.b + x.d);
  return (y[0] + y[2]) + (y[1] + y[3]);
}

// Sixteen half words as words. Zeros go between them: little-endian, as plans and weights are.
struct quarters {
  words a, b, c, d;
};
inline quarters widen(const uint16_t* p) {
  using halves = uint16_t __attribute__((vector_size(16)));
  halves x, y, zero{};
  std::memcpy(&x, p, 16);
  std::memcpy(&y, p + 8, 16);
  return {reinterpret_cast<words>(__builtin_shufflevector(x, zero, 0, 8, 1, 9, 2, 10, 3, 11)),
          reinterpret_cast<words>(__builtin_shufflevector(x, zero, 4, 12, 5, 13, 6, 14, 7, 15)),
          reinterpret_cast<words>(__builtin_shufflevector(y, zero, 0, 8, 1, 9, 2, 10, 3, 11)),
          reinterpret_cast<words>(__builtin_shufflevector(y, zero, 4, 12, 5, 13, 6, 14, 7, 15))};
}
inline void copy_first(uint16_t* to, const uint16_t* from, int64_t n) {
  for (int64_t i = 0; i < 16; ++i) to[i] = i < n ? from[i] : uint16_t{0};
}

// Exponent and mantissa move to their places in float32, and a multiplication by 2^112 corrects the bias: exact, denormals included.
inline floats f16_to_f32(const words& h) {
  const floats bias{0x1p112f, 0x1p112f, 0x1p112f, 0x1p112f};
  const floats scaled = reinterpret_cast<floats>((h & 0x7FFFu) << 13) * bias;
  const words special = reinterpret_cast<words>((h & 0x7C00u) == 0x7C00u) & 0x7F800000u;
  return reinterpret_cast<floats>(reinterpret_cast<words>(scaled) | special | ((h & 0x8000u) << 16));
}
inline lanes from_f16(const uint16_t* p) {
  const quarters h = widen(p);
  return {f16_to_f32(h.a), f16_to_f32(h.b), f16_to_f32(h.c), f16_to_f32(h.d)};
}
inline lanes from_f16_first(const uint16_t* p, int64_t n) {
  uint16_t padded[16];
  copy_first(padded, p, n);
  return from_f16(padded);
}
inline lanes splat_f16(uint16_t half) { return splat(f16_to_f32(words{half})[0]); }

// Round to nearest even; beyond float16 gives infinity, NaN a quiet NaN.
inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = to_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t absolute = bits & 0x7FFFFFFFu;
  if (absolute > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | ((absolute >> 13) & 0x3FFu));
  if (absolute >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520, halfway to the first value beyond
  if (absolute < 0x38800000u) {
    // Below 2^-14: adding 0.5 aligns the float32 unit in the last place with the denormals' 2^-24, and rounds half to even.
    return static_cast<uint16_t>(sign | (to_bits(from_bits(absolute) + 0.5f) - 0x3F000000u));
  }
  const uint32_t odd = (absolute >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((absolute + 0xFFFu + odd - 0x38000000u) >> 13));
}
inline void to_f16(uint16_t* p, const lanes& x) {
  float f[16];
  store(f, x);
  for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(f[i]);
}

inline lanes from_bf16(const uint16_t* p) {
  const quarters h = widen(p);
  return {reinterpret_cast<floats>(h.a << 16), reinterpret_cast<floats>(h.b << 16), reinterpret_cast<floats>(h.c << 16),
          reinterpret_cast<floats>(h.d << 16)};
}
inline lanes from_bf16_first(const uint16_t* p, int64_t n) {
  uint16_t padded[16];
  copy_first(padded, p, n);
  return from_bf16(padded);
}
inline lanes from_i8(const int8_t* p) {
  // The byte goes to the top of its word, and an arithmetic shift brings its sign down.
  uint16_t high[16];
  for (int i = 0; i < 16; ++i) high[i] = static_cast<uint16_t>(static_cast<uint8_t>(p[i]) << 8);
  const quarters h = widen(high);
  const auto signed_top = [](const words& w) { return __builtin_convertvector(reinterpret_cast<integers>(w << 16) >> 24, floats); };
  return {signed_top(h.a), signed_top(h.b), signed_top(h.c), signed_top(h.d)};
}

// Round half to even and saturate; |x| < 2^22, where adding 1.5·2^23 leaves no bit behind the point.
inline void to_i8(int8_t* p, const lanes& x) {
  const lanes magic = splat(12582912.0f);
  float f[16];
  store(f, min(splat(127.0f), max(splat(-128.0f), (x + magic) - magic)));
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(f[i]);
}

// Greatest |x| of many lanes as an integer, in which infinities and NaN come out on top.
struct magnitude {
  integers bits;
};
inline magnitude no_magnitude() { return {integers{}}; }
inline integers greater_magnitude(const integers& m, const floats& x) {
  const integers absolute = reinterpret_cast<integers>(x) & 0x7FFFFFFF;
  return absolute > m ? absolute : m;
}
inline magnitude raise(const magnitude& m, const lanes& x) {
  return {greater_magnitude(greater_magnitude(greater_magnitude(greater_magnitude(m.bits, x.a), x.b), x.c), x.d)};
}
inline uint32_t greatest(const magnitude& m) {
  int32_t top = m.bits[0];
  for (int i = 1; i < 4; ++i) top = m.bits[i] > top ? m.bits[i] : top;
  return static_cast<uint32_t>(top);
}

// The 256 codes of a Q6_K block, minus 32: 128 bytes of low nibbles, 64 of high bit pairs → 256 int8.
inline void q6_k_codes(const uint8_t* block, int8_t* codes) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = block + 64 * half;
    const uint8_t* high = block + 128 + 32 * half;
    int8_t* out = codes + 128 * half;
    for (int i = 0; i < 32; ++i) {
      out[i] = static_cast<int8_t>(((low[i] & 15) | (high[i] & 3) << 4) - 32);
      out[i + 32] = static_cast<int8_t>(((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4) - 32);
      out[i + 64] = static_cast<int8_t>((low[i] >> 4 | (high[i] >> 4 & 3) << 4) - 32);
      out[i + 96] = static_cast<int8_t>((low[i + 32] >> 4 | (high[i] >> 6) << 4) - 32);
    }
  }
}

}  // namespace
}  // namespace tritium
