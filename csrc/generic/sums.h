// A tile of running sums that stays in registers: a chain of members, because gcc keeps arrays of vectors in memory.
#pragma once

namespace tritium {
namespace {

template <int N>
struct Sums {
  lanes first;
  Sums<N - 1> rest;
};
template <>
struct Sums<0> {};

template <int N>
[[gnu::always_inline]] inline void clear(Sums<N>& s) {
  s.first = splat(0.0f);
  if constexpr (N > 1) clear(s.rest);
}

}  // namespace
}  // namespace tritium
