// Asking for rows or columns of a list before they are read.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tritium {
namespace {

// How far ahead lines are asked for, into the second level: the first has too few misses in flight to hide memory. A prefetch that
// finds no free place among the misses is dropped, and reading what was dropped costs the whole latency; asked for three times, rows
// of 640 bytes come a quarter faster (Zen 4). A prefetch takes the place of a load, so two of them share the one of their address.
constexpr int kAsks = 3;
constexpr int64_t kFirstAsk = 24, kAskAgain = 8, kAskedBytes = 128;

// The next lines of a list to ask for while its places i … i + kWidth − 1 are read.
template <int kWidth>
struct Ahead {
  const char* of[kAsks * kWidth];
  [[gnu::always_inline]] Ahead(const uint8_t* w, int64_t line_bytes, const int32_t* list, int64_t i, int64_t n) {
    for (int64_t j = 0; j < kAsks * kWidth; ++j) {
      const int64_t at = i + j % kWidth + kFirstAsk - j / kWidth * kAskAgain;
      of[j] = reinterpret_cast<const char*>(w + list[at < n ? at : n - 1] * line_bytes);
    }
  }
  // Byte b of all of them, for every b: each kAskedBytes something is asked for.
  [[gnu::always_inline]] void ask(int64_t b) const {
    if (b % kAskedBytes != 0) return;
    for (const char* line : of) {
      for (int64_t c = 0; c < kAskedBytes; c += 64) _mm_prefetch(line + b + c, _MM_HINT_T1);
    }
  }
};

// Asks for the first places of a list, for which nothing has asked. Forced inline: gcc takes a function that only prefetches for one
// without effect, and drops its calls.
[[gnu::always_inline]] inline void ask_first(const uint8_t* w, int64_t line_bytes, const int32_t* list, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t b = 0; b < line_bytes; b += 64) _mm_prefetch(reinterpret_cast<const char*>(w + list[i] * line_bytes + b), _MM_HINT_T1);
  }
}

// What asks as a list goes on, for rows of which one token needs a part.
struct Listed {
  [[gnu::always_inline]] static void begin(const uint8_t* w, int64_t line_bytes, const int32_t* list, int64_t n) {
    ask_first(w, line_bytes, list, n < kFirstAsk ? n : kFirstAsk);
  }
  template <int kWidth>
  [[gnu::always_inline]] static Ahead<kWidth> at(const uint8_t* w, int64_t line_bytes, const int32_t* list, int64_t i, int64_t n) {
    return {w, line_bytes, list, i, n};
  }
};

// Columns that pass block by block, and as many that come next.
template <int64_t kMost>
struct Group {
  const uint8_t *now[kMost], *next[kMost];
  [[gnu::always_inline]] Group(const uint8_t* w, int64_t column_bytes, const int32_t* list, int64_t i, int64_t here, int64_t n) {
    for (int64_t j = 0; j < here; ++j) {
      const int64_t at = i + kMost + j;
      now[j] = w + list[i + j] * column_bytes;
      next[j] = w + list[at < n ? at : n - 1] * column_bytes;
    }
  }
};

// One block of each of some columns.
struct Lines {
  const uint8_t* const* of;
  int64_t offset;
  [[gnu::always_inline]] void ask(int64_t j) const { _mm_prefetch(reinterpret_cast<const char*>(of[j] + offset), _MM_HINT_T1); }
};

// What is asked for while byte b of a group's columns is read: the same of the next ones and, for the second time, what half a column
// ago was asked for.
template <int64_t kMost>
[[gnu::always_inline]] inline Lines lines_after(const Group<kMost>& group, int64_t b) {
  return {group.next, b};
}
template <int64_t kMost>
[[gnu::always_inline]] inline Lines lines_again(const Group<kMost>& group, int64_t b, int64_t column_bytes) {
  const int64_t half = column_bytes / 2;
  return b < half ? Lines{group.now, b + half} : Lines{group.next, b - half};
}

}  // namespace
}  // namespace tritium
