// e^x of the numeric profile.
#pragma once

#include "generic/sums.h"

namespace tritium {
namespace {

// e^x within 2 ulp for −87 ≤ x ≤ 88, 0 below, e^88 above, operation for operation as numerics.exp, of all that a pack of lanes holds.
// NaN stays NaN: max and min return their second operand then. Each step is made for the whole pack: a step waits for the one before it,
// and no processor looks so far ahead that it finds the next one's first steps behind all of this one's. What is below −87 gets 0 for
// its power, which its positive mantissa leaves 0.
template <class Pack>
[[gnu::always_inline]] inline void exp_each(Pack& x) {
  const lanes least = splat(-87.0f);
  const lanes magic = splat(12582912.0f);  // 1.5·2²³: adding it rounds to an integer
  constexpr float kMiddle[] = {0.041666556f, 0.16666576f, 0.5f};
  Pack power, p;
  const auto split = [&](lanes& x, lanes& power, lanes& n) __attribute__((always_inline)) {
    const lanes clamped = min(splat(88.0f), max(least, x));
    n = (clamped * splat(1.4426950408889634f) + magic) - magic;
    power = zero_where_less(x, least, power_of_two(n));
    x = clamped;
  };
  const auto reduce = [](lanes& x, const lanes& n) __attribute__((always_inline)) {
    x = (x - n * splat(0.693359375f)) - n * splat(-0.00021219444005469057f);
  };
  const auto begin = [](lanes& p, const lanes& r) __attribute__((always_inline)) { p = splat(0.0013926213f) * r + splat(0.008363203f); };
  const auto end = [](lanes& p, const lanes& r) __attribute__((always_inline)) { p = ((p * (r * r)) + r) + splat(1.0f); };
  each(split, x, power, p);
  each(reduce, x, p);
  each(begin, p, x);
  for (float c : kMiddle) each([=](lanes& p, const lanes& r) __attribute__((always_inline)) { p = p * r + splat(c); }, p, x);
  each(end, p, x);
  each([](lanes& x, const lanes& p, const lanes& power) __attribute__((always_inline)) { x = p * power; }, x, p, power);
}

inline lanes exp(const lanes& x) {
  Sums<1> pack{x, {}};
  exp_each(pack);
  return pack.first;
}

inline float exp(float x) { return first(exp(splat(x))); }

}  // namespace
}  // namespace tritium
