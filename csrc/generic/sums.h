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

// f(a, …) on each member of `a` and those that stand in its place in `others`.
template <class F, int N, class... Others>
[[gnu::always_inline]] inline void each(const F& f, Sums<N>& a, Others&... others) {
  f(a.first, others.first...);
  if constexpr (N > 1) each(f, a.rest, others.rest...);
}

template <int N>
[[gnu::always_inline]] inline void fill(Sums<N>& s, float x) {
  s.first = splat(x);
  if constexpr (N > 1) fill(s.rest, x);
}
template <int N>
[[gnu::always_inline]] inline void clear(Sums<N>& s) {
  fill(s, 0.0f);
}

}  // namespace
}  // namespace tritium
