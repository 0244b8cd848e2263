// Sums of products of codes and int8 that stay in registers, with 512-bit VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

[[gnu::always_inline]] inline __m512i four(const int8_t* a) {
  int32_t word;
  __builtin_memcpy(&word, a, 4);
  return _mm512_set1_epi32(word);
}
[[gnu::always_inline]] inline __m512i dot(__m512i acc, __m512i codes, __m512i a) { return _mm512_dpbusd_epi32(acc, codes, a); }
// With the four activations at `a`, which the product takes from memory itself: one instruction less to issue if the address has no
// index. gcc would broadcast them first.
[[gnu::always_inline]] inline __m512i dot(__m512i acc, __m512i codes, const int8_t* a) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(codes), "m"(*reinterpret_cast<const int8_t(*)[4]>(a)));
  return acc;
}

// int32 sums of T rows of activations × 16 rows of weights, as a tree of members: gcc keeps arrays of vectors, and chains of ten, in memory.
template <int T>
struct Rows16 {
  Rows16<T / 2> left;
  Rows16<T - T / 2> right;
};
template <>
struct Rows16<1> {
  __m512i sum;
};

template <int T>
[[gnu::always_inline]] inline void clear(Rows16<T>& s) {
  if constexpr (T == 1) {
    s.sum = _mm512_setzero_si512();
  } else {
    clear(s.left);
    clear(s.right);
  }
}
template <int T>
[[gnu::always_inline]] inline void add_dots(Rows16<T>& s, __m512i codes, const int8_t* a, int64_t stride) {
  if constexpr (T == 1) {
    s.sum = dot(s.sum, codes, a);
  } else {
    add_dots(s.left, codes, a, stride);
    add_dots(s.right, codes, a + T / 2 * stride, stride);
  }
}
// At the end of a loop's body: the sum that the loop carries on and the one that leaves it are one value, in a register. Without it
// gcc keeps two, and stores one of them every time.
[[gnu::always_inline]] inline void settle(__m512i& sum) { asm("" : "+v"(sum)); }
template <int T>
[[gnu::always_inline]] inline void settle(Rows16<T>& s) {
  if constexpr (T == 1) {
    settle(s.sum);
  } else {
    settle(s.left);
    settle(s.right);
  }
}
template <int T>
[[gnu::always_inline]] inline void store(const Rows16<T>& s, __m512i* sums) {
  if constexpr (T == 1) {
    sums[0] = s.sum;
  } else {
    store(s.left, sums);
    store(s.right, sums + T / 2);
  }
}

template <int T>
[[gnu::always_inline]] inline void add_shifted(Rows16<T>& s, const Rows16<T>& planes, int shift) {
  if constexpr (T == 1) {
    s.sum = _mm512_add_epi32(s.sum, _mm512_srai_epi32(planes.sum, shift));
  } else {
    add_shifted(s.left, planes.left, shift);
    add_shifted(s.right, planes.right, shift);
  }
}

}  // namespace
}  // namespace tritium
