// rmsnorm, quantize and their fusion.
#pragma once

#include <cstring>

#include "kernel.h"

namespace tritium {
namespace {

// Greater than the pattern of every finite |x|.
constexpr uint32_t kInfinityBits = 0x7F800000u;

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// 1 / sqrt(lane_sum(x·x) / k + eps). Columns from k to the next multiple of 16 are zero.
inline float inverse_rms(const float* x, int64_t k, float eps) {
  lanes sum = splat(0.0f);
  for (int64_t i = 0; i < k; i += 16) {
    const lanes a = load(x + i);
    sum = sum + a * a;
  }
  const float mean = tree_sum(sum) / static_cast<float>(k);
  return 1.0f / __builtin_sqrtf(mean + eps);
}

// Sixteen normalized values, (x·inv)·gamma; +0 or −0 past k, where gamma is not read.
[[gnu::always_inline]] inline lanes normalized(const float* x, const float* gamma, float inv, int64_t i, int64_t k) {
  const lanes g = k - i >= 16 ? load(gamma + i) : load_first(gamma + i, k - i);
  return (load(x + i) * splat(inv)) * g;
}

// Quantize one row of value(i), i = 0, 16, … < k, to int8: q = rne(x·(127/a)), a = max(max|x|, 1e-5). The products are at most
// 127·(1 + 2⁻²²), so saturation is never needed. False if a value is not finite.
template <class Value>
inline bool quantize_row(const Value& value, int64_t k, int8_t* q, float* scale) {
  magnitude m = no_magnitude();
  for (int64_t i = 0; i < k; i += 16) m = raise(m, value(i));
  const uint32_t bits = greatest(m);
  if (bits >= kInfinityBits) return false;
  const float absmax = float_of(bits) > 1e-5f ? float_of(bits) : 1e-5f;
  const lanes inv_scale = splat(127.0f / absmax);
  int64_t i = 0;
  for (; i < k; i += 16) to_i8(q + i, value(i) * inv_scale);
  for (; i % 64 != 0; i += 16) std::memset(q + i, 0, 16);
  *scale = absmax / 127.0f;
  return true;
}

// The k weights of a norm, which come from memory while the first row is summed.
inline const float* fetch_gamma(const Call& call, int64_t k) {
  const float* gamma = reinterpret_cast<const float*>(call.weights[0].data);
  for (int64_t i = 0; i < k; i += 16) __builtin_prefetch(gamma + i, 0, 2);
  return gamma;
}

// Reads gamma; its bytes count once a step, in the range that holds row 0.
KERNEL_FUNCTION(rmsnorm) {
  const int64_t k = call.ints[0];
  const float* gamma = fetch_gamma(call, k);
  for (int64_t r = begin; r < end; ++r) {
    const float* x = call.in[0].row<const float>(r);
    float* y = call.out[0].row<float>(r);
    const float inv = inverse_rms(x, k, call.floats[0]);
    for (int64_t i = 0; i < k; i += 16) store(y + i, normalized(x, gamma, inv, i, k));
  }
  if (begin == 0) work.bytes += static_cast<uint64_t>(4 * k);
}

// As rmsnorm and quantize one after the other: the normalized values are formed twice instead of stored.
KERNEL_FUNCTION(rmsnorm_quantize) {
  const int64_t k = call.ints[0];
  const float* gamma = fetch_gamma(call, k);
  for (int64_t r = begin; r < end; ++r) {
    const float* x = call.in[0].row<const float>(r);
    const float inv = inverse_rms(x, k, call.floats[0]);
    const auto value = [=](int64_t i) __attribute__((always_inline)) { return normalized(x, gamma, inv, i, k); };
    if (!quantize_row(value, k, call.out[0].row<int8_t>(r), call.out[1].row<float>(r))) work.fail(Error::not_finite, r);
  }
  if (begin == 0) work.bytes += static_cast<uint64_t>(4 * k);
}

// Reads no resident bytes.
KERNEL_FUNCTION(quantize_activations) {
  const int64_t k = call.ints[0];
  for (int64_t r = begin; r < end; ++r) {
    const float* x = call.in[0].row<const float>(r);
    const auto value = [=](int64_t i) __attribute__((always_inline)) { return load(x + i); };
    if (!quantize_row(value, k, call.out[0].row<int8_t>(r), call.out[1].row<float>(r))) work.fail(Error::not_finite, r);
  }
}

}  // namespace
}  // namespace tritium
