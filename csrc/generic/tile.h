// Sums of products on a tile of N rows by C vectors, which stays in registers.
#pragma once

#include "generic/sums.h"
#include "kernel.h"

namespace tritium {
namespace {

inline lanes load_floats(const float* p) { return load(p); }
inline lanes load_floats(const uint16_t* p) { return from_f16(p); }
inline lanes load_floats(const int8_t* p) { return from_i8(p); }

// Vector x begins x·step elements behind the first. Loads reach up to 15 elements past a vector's end: what they find there
// only enters lanes that nobody reads. What will be read next lies from `ahead` on, in as many bytes, of which those of vectors from
// ahead_vectors on and of elements from ahead_width on lie as far behind `beyond`: it is fetched meanwhile, ahead_step elements a vector,
// since no processor looks ahead from one page to another.
template <class Element>
struct Vectors {
  const Element* first;
  int64_t step;
  const Element* ahead = nullptr;
  const Element* beyond = nullptr;
  int64_t ahead_vectors = 0, ahead_width = 0, ahead_step = 0;

  [[gnu::always_inline]] const Element* operator[](int64_t x) const { return first + x * step; }
  [[gnu::always_inline]] Vectors from(int64_t i) const {
    if constexpr (sizeof(Element) < sizeof(float)) {
      return {first + i, step, ahead + i, beyond + i, ahead_vectors, ahead_width - i, ahead_step};
    }
    return {first + i, step};
  }
  // Elements i … i + width − 1 of n vectors, one of the tiles that they are cut into. All tiles together fetch what lies ahead in the
  // order of memory: lines with gaps between them come more slowly.
  [[gnu::always_inline]] Vectors tile(int64_t i, int64_t width, int64_t n) const {
    if constexpr (sizeof(Element) < sizeof(float)) {
      return {first + i, step, ahead + i * n, beyond + i * n, (ahead_vectors * step - i * n) / width, width, width};
    }
    return {first + i, step};
  }
  // The place of n elements of vector x.
  [[gnu::always_inline]] void fetch(int64_t x, int64_t n) const {
    if constexpr (sizeof(Element) < sizeof(float)) {
      for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(Element))) {
        __builtin_prefetch((x < ahead_vectors && i < ahead_width ? ahead : beyond) + x * ahead_step + i, 0, 2);
      }
    }
  }
};

// `n` vectors of `width` elements as float32 in `stage`, each padded to whole lanes.
template <class Element>
inline Vectors<float> convert(const Vectors<Element>& vectors, int64_t n, int64_t width, float* stage) {
  const int64_t step = (width + kLanes - 1) / kLanes * kLanes;
  for (int64_t x = 0; x < n; ++x) {
    vectors.fetch(x, width);
    for (int64_t i = 0; i < width; i += kLanes) store(stage + x * step + i, load_floats(vectors[x] + i));
  }
  return {stage, step};
}

template <int N, int C>
struct SumTile {
  Sums<C> first;
  SumTile<N - 1, C> rest;
};
template <int C>
struct SumTile<0, C> {};

template <class F, int N, int C, class... Others>
[[gnu::always_inline]] inline void each(const F& f, SumTile<N, C>& a, Others&... others) {
  each(f, a.first, others.first...);
  if constexpr (N > 1) each(f, a.rest, others.rest...);
}

template <int N, int C>
[[gnu::always_inline]] inline void clear(SumTile<N, C>& t) {
  clear(t.first);
  if constexpr (N > 1) clear(t.rest);
}

template <int C, class Element>
[[gnu::always_inline]] inline void load_sums(Sums<C>& s, const Element* p) {
  s.first = load_floats(p);
  if constexpr (C > 1) load_sums(s.rest, p + kLanes);
}
template <int N, int C>
[[gnu::always_inline]] inline void load_sums(SumTile<N, C>& t, const float* p, int64_t step) {
  load_sums(t.first, p);
  if constexpr (N > 1) load_sums(t.rest, p + step, step);
}

template <int C>
[[gnu::always_inline]] inline void store_sums(const Sums<C>& s, float* p) {
  store(p, s.first);
  if constexpr (C > 1) store_sums(s.rest, p + kLanes);
}
template <int N, int C>
[[gnu::always_inline]] inline void store_sums(const SumTile<N, C>& t, float* p, int64_t step) {
  store_sums(t.first, p);
  if constexpr (N > 1) store_sums(t.rest, p + step, step);
}

template <int C>
[[gnu::always_inline]] inline void store_scaled(const Sums<C>& s, float* p, const lanes* scales) {
  store(p, s.first * *scales);
  if constexpr (C > 1) store_scaled(s.rest, p + kLanes, scales + 1);
}
template <int N, int C>
[[gnu::always_inline]] inline void store_scaled(const SumTile<N, C>& t, float* p, int64_t step, const lanes* scales) {
  store_scaled(t.first, p, scales);
  if constexpr (N > 1) store_scaled(t.rest, p + step, step, scales);
}

template <int C, class Factor>
[[gnu::always_inline]] inline void add_product(Sums<C>& s, const Factor& a, const Sums<C>& b) {
  s.first = s.first + a * b.first;
  if constexpr (C > 1) add_product(s.rest, a, b.rest);
}
template <int N, int C>
[[gnu::always_inline]] inline void add_product(SumTile<N, C>& t, const float* a, int64_t step, const Sums<C>& b) {
  add_product(t.first, factor_at(a), b);
  if constexpr (N > 1) add_product(t.rest, a + step, step, b);
}

// t[h] += Σ_x a[h·step + x]·b[x], x = 0 … n − 1 one after the other, n ≥ 1. A vector is converted while the one before it is
// multiplied: waiting for it would leave the arithmetic units idle.
template <int N, int C, class Element>
[[gnu::always_inline]] inline void add_products(SumTile<N, C>& t, const float* a, int64_t step, const Vectors<Element>& b, int64_t n) {
  Sums<C> row;
  load_sums(row, b[0]);
  b.fetch(0, C * kLanes);
  for (int64_t x = 1; x < n; ++x) {
    Sums<C> next;
    load_sums(next, b[x]);
    b.fetch(x, C * kLanes);
    add_product(t, a + x - 1, step, row);
    row = next;
  }
  add_product(t, a + n - 1, step, row);
}

}  // namespace
}  // namespace tritium
