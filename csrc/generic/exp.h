// e^x of the numeric profile.
#pragma once

namespace tritium {
namespace {

// e^x within 2 ulp for −87 ≤ x ≤ 88, 0 below, e^88 above, operation for operation as numerics.exp. NaN stays NaN: max and min
// return their second operand then.
inline lanes exp(const lanes& x) {
  const lanes least = splat(-87.0f);
  const lanes magic = splat(12582912.0f);  // 1.5·2²³: adding it rounds to an integer
  const lanes clamped = min(splat(88.0f), max(least, x));
  const lanes n = (clamped * splat(1.4426950408889634f) + magic) - magic;
  const lanes r = (clamped - n * splat(0.693359375f)) - n * splat(-0.00021219444005469057f);
  lanes p = splat(0.0013926213f);
  p = p * r + splat(0.008363203f);
  p = p * r + splat(0.041666556f);
  p = p * r + splat(0.16666576f);
  p = p * r + splat(0.5f);
  const lanes mantissa = ((p * (r * r)) + r) + splat(1.0f);
  return zero_where_less(x, least, mantissa * power_of_two(n));
}

inline float exp(float x) { return first(exp(splat(x))); }

}  // namespace
}  // namespace tritium
