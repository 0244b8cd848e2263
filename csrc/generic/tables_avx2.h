// Products of many tokens with i2s and tq1 panels from tables, in 256-bit registers. Four weights make one of 81 sums of four activations.
// All 81 are formed once for 32 tokens, side by side; then every row adds the one that its weights call for: two additions do what takes
// vpmaddubsw four products and four additions.
#pragma once

#include "generic/linear_avx2.h"

namespace tritium {
namespace {

constexpr int64_t kSide = kTableSide;
constexpr int64_t kWays = 81;
constexpr int64_t kTable = kWays * kSide;
// So many fours have their tables in the first-level cache at once: they make a quarter of a group of 80 k.
constexpr int64_t kFours = 5;
// Of a panel's group: a byte for each row and four says which of the 81.
constexpr int64_t kIndexBytes = kFours * kPanelBlockBytes;
// A four is at most 4·128 in magnitude. A lane of 16 bits holds 63 of them; three groups make 60.
constexpr int64_t kStripGroups = 3;
constexpr int64_t kStripDepth = kStripGroups * kTritDepth;
static_assert(kStripDepth * 128 < 1 << 15);
// So many panels meet so many times 32 tokens: what they need waits in the second-level cache, in the scratch memory.
constexpr int64_t kTablePanels = 160;
constexpr int64_t kTableBlocks = 2;
// Forming the tables costs more than fewer panels save.
constexpr int64_t kLeastPanels = 8;

struct Tables {
  int16_t tables[kFours * kTable];
  int16_t columns[kStripDepth * kSide];  // of a strip of the activations: 32 tokens side by side
  uint8_t indices[kTablePanels * kStripGroups * kIndexBytes];
  int16_t words[kTablePanels * kPanelRows * kSide];
  int32_t sums[kTableBlocks * kTablePanels * kPanelRows * kSide];
};
static_assert(sizeof(Tables) <= 1 << 20);

// The transpose of the 16 × 16 bytes in each half.
inline void transpose_bytes(__m256i* a) {
  __m256i b[16];
  for (int stage = 0; stage < 2; ++stage) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 8; ++i) {
      a[2 * i] = _mm256_unpacklo_epi8(b[i], b[i + 8]);
      a[2 * i + 1] = _mm256_unpackhi_epi8(b[i], b[i + 8]);
    }
  }
}

// k … k + n_blocks·16 − 1 of n tokens, of those from `first` on, as columns; what is no token repeats the last, what is no k is zero.
inline void columns_of(const Tokens& x, int64_t first, int64_t n, int64_t k, int64_t n_blocks, int16_t* columns) {
  const auto half_at = [&](int64_t t, int64_t at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x.a + (first + (t < n ? t : n - 1)) * x.a_stride + at));
  };
  for (int64_t b = 0; b < kStripDepth / kPanelDepth; ++b, columns += kPanelDepth * kSide) {
    __m256i rows[16];
    for (int64_t t = 0; t < 16; ++t) {
      rows[t] = _mm256_setzero_si256();
      if (b < n_blocks) rows[t] = _mm256_setr_m128i(half_at(t, k + kPanelDepth * b), half_at(t + 16, k + kPanelDepth * b));
    }
    transpose_bytes(rows);
    for (int64_t i = 0; i < 16; ++i) {
      store_256(columns + kSide * i, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(rows[i])));
      store_256(columns + kSide * i + 16, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(rows[i], 1)));
    }
  }
}

// x·(c − 1) for the code c.
[[gnu::always_inline]] inline __m256i weighed(__m256i x, int c) {
  return c == 0 ? _mm256_sub_epi16(_mm256_setzero_si256(), x) : c == 1 ? _mm256_setzero_si256() : x;
}

// Sums of four activations, `step` columns apart, with all codes c: c(0) + 3·c(1) + 9·c(2) + 27·c(3) tells the place.
inline void fill_table(const int16_t* column, int64_t step, int16_t* table) {
  for (int64_t v = 0; v < kSide; v += 16) {
    const auto x = [&](int64_t j) { return load_256(column + j * step * kSide + v); };
    const __m256i x0 = x(0), x1 = x(1), x2 = x(2), x3 = x(3);
    const __m256i minus = weighed(x1, 0), a0 = _mm256_sub_epi16(minus, x0), a1 = minus, a2 = _mm256_sub_epi16(x0, x1),
                  a3 = weighed(x0, 0), a5 = x0, a6 = _mm256_sub_epi16(x1, x0), a7 = x1, a8 = _mm256_add_epi16(x0, x1);
    int16_t* out = table + v;
    for (int c3 = 0; c3 < 3; ++c3) {
      for (int c2 = 0; c2 < 3; ++c2, out += 9 * kSide) {
        const __m256i b = _mm256_add_epi16(weighed(x2, c2), weighed(x3, c3));
        store_256(out, _mm256_add_epi16(a0, b));
        store_256(out + kSide, _mm256_add_epi16(a1, b));
        store_256(out + 2 * kSide, _mm256_add_epi16(a2, b));
        store_256(out + 3 * kSide, _mm256_add_epi16(a3, b));
        store_256(out + 4 * kSide, b);
        store_256(out + 5 * kSide, _mm256_add_epi16(a5, b));
        store_256(out + 6 * kSide, _mm256_add_epi16(a6, b));
        store_256(out + 7 * kSide, _mm256_add_epi16(a7, b));
        store_256(out + 8 * kSide, _mm256_add_epi16(a8, b));
      }
    }
  }
}

// Quarter i of a group of 80 k: the fours of its block i, then one of those across the fifth digits.
inline void fill_tables(const int16_t* columns, int64_t quarter, int16_t* tables) {
  for (int64_t b = 0; b < 4; ++b) fill_table(columns + (kPanelDepth * quarter + b) * kSide, 4, tables + b * kTable);
  fill_table(columns + (4 * kPanelDepth + quarter) * kSide, 4, tables + 4 * kTable);
}

// A group of a panel as indices: those of block i's fours, then those of the fifth digits. What comes next is fetched meanwhile.
inline void index_group(const TritPanels& panels, int64_t p, int64_t g, uint8_t* indices) {
  const uint8_t* group = panels.panel(p) + kGroupBytes * g;
  for (int64_t half = 0; half < kPanelBlockBytes; half += 32) {
    __m256i fifths = _mm256_setzero_si256();
    for (int64_t i = 3; i >= 0; --i) {
      const __m256i v = load_256(group + kPanelBlockBytes * i + half), four = modulo(v, kFifthDigit);
      store_256(indices + kPanelBlockBytes * i + half, four);
      const __m256i fifth = _mm256_and_si256(_mm256_sub_epi8(v, four), _mm256_set1_epi8(3));
      fifths = _mm256_add_epi8(_mm256_add_epi8(fifths, fifth), _mm256_add_epi8(fifths, fifths));
    }
    store_256(indices + 4 * kPanelBlockBytes + half, fifths);
  }
  for (int64_t i = 0; i < kGroupBytes; i += 64) __builtin_prefetch(group + kStripGroups * kGroupBytes + i, 0, 2);
}
inline void index_group(const Panels& panels, int64_t p, int64_t g, uint8_t* indices) {
  const __m256i of_pair = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0));
  const __m256i of_high = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0));
  const __m256i nibble = _mm256_set1_epi8(15);
  const uint8_t* block = panels.panel(p) + kPanelBlockBytes * kGroupBlocks * g;
  for (int64_t at = 0; at < kIndexBytes; at += 32) {
    __m256i index = _mm256_set1_epi8(kWays / 2);
    if (kGroupBlocks * g + at / kPanelBlockBytes < panels.n_blocks) {
      const __m256i v = load_256(block + at);
      index = _mm256_add_epi8(_mm256_shuffle_epi8(of_pair, _mm256_and_si256(v, nibble)),
                              _mm256_shuffle_epi8(of_high, _mm256_and_si256(_mm256_srli_epi32(v, 4), nibble)));
    }
    store_256(indices + at, index);
    if (at % 64 == 0) __builtin_prefetch(block + kStripGroups * kIndexBytes + at, 0, 2);
  }
}

// Adds a line of one of the tables. In assembly: gcc adds lines to one another first, which takes more instructions.
template <int kWhich>
[[gnu::always_inline]] inline void add_sum(__m256i& low, __m256i& high, const int16_t* tables, uint64_t index) {
  asm("vpaddw %c4(%2,%3), %0, %0\n\t"
      "vpaddw %c5(%2,%3), %1, %1"
      : "+x"(low), "+x"(high)
      : "r"(tables), "r"(2 * kSide * index), "i"(2 * kTable * kWhich), "i"(2 * kTable * kWhich + 32),
        "m"(*reinterpret_cast<const int16_t(*)[kFours * kTable]>(tables)));
}

// Adds the sums of a quarter's fours to the words of all rows, which begin at zero and end in sums of 32 bits.
template <bool kBegin, bool kEnd>
void add_sums(const int16_t* tables, const uint8_t* indices, int64_t quarter, int64_t n_panels, int16_t* words, int32_t* sums) {
  for (int64_t p = 0; p < n_panels; ++p, indices += kStripGroups * kIndexBytes) {
    const uint8_t *four = indices + kPanelBlockBytes * quarter, *fifth = indices + 4 * kPanelBlockBytes + quarter;
    for (int64_t r = 0; r < kPanelRows; ++r, four += 4, fifth += 4, words += kSide, sums += kSide) {
      __m256i low, high;
      if constexpr (kBegin) {
        low = high = _mm256_setzero_si256();
      } else {
        low = load_256(words);
        high = load_256(words + 16);
      }
      uint32_t word;
      __builtin_memcpy(&word, four, 4);
      add_sum<0>(low, high, tables, word & 255);
      add_sum<1>(low, high, tables, word >> 8 & 255);
      add_sum<2>(low, high, tables, word >> 16 & 255);
      add_sum<3>(low, high, tables, word >> 24);
      add_sum<4>(low, high, tables, fifth[0]);
      if constexpr (kEnd) {
        const auto add = [&](int64_t i, __m128i x) { store_256(sums + i, _mm256_add_epi32(load_256(sums + i), _mm256_cvtepi16_epi32(x))); };
        add(0, _mm256_castsi256_si128(low));
        add(8, _mm256_extracti128_si256(low, 1));
        add(16, _mm256_castsi256_si128(high));
        add(24, _mm256_extracti128_si256(high, 1));
      } else {
        store_256(words, low);
        store_256(words + 16, high);
      }
    }
  }
}

// Eight rows of eight tokens, as rows of a token.
inline void transpose_sums(const int32_t* sums, __m256i* out) {
  __m256i a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = load_256(sums + kSide * i);
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    out[i] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x20);
    out[i + 4] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x31);
  }
}

// The outputs of n ≤ 32 tokens from `first` on and the panels from p on.
template <class P>
void put_sums(const Tokens& x, int64_t first, int64_t n, const P& panels, int64_t p, int64_t n_panels, const int32_t* sums) {
  for (int64_t t = 0; t < n; t += 8) {
    const int64_t here = n - t < 8 ? n - t : 8;
    for (int64_t i = 0; i < 2 * n_panels; ++i) {
      __m256i rows[8];
      transpose_sums(sums + 8 * i * kSide + t, rows);
      for (int64_t j = 0; j < here; ++j) {
        const int64_t token = first + t + j;
        const float scale = x.scales[token * x.scale_stride] * panels.scales[p + i / 2];
        finish(rows[j], 0, scale, x.accumulate, x.out + token * x.out_stride + kPanelRows * p + 8 * i);
      }
    }
  }
}

// n tokens × at most kTablePanels panels from p on.
template <class P>
void multiply_by_tables(const Tokens& x, int64_t n, const P& panels, int64_t p, int64_t n_panels, float* scratch) {
  Tables& at = *reinterpret_cast<Tables*>(scratch);
  const int64_t n_rows = n_panels * kPanelRows, n_sides = (n + kSide - 1) / kSide;
  const int64_t n_groups = (panels.n_blocks + kGroupBlocks - 1) / kGroupBlocks;
  for (int64_t i = 0; i < n_sides * n_rows * kSide; i += 8) store_256(at.sums + i, _mm256_setzero_si256());
  for (int64_t g = 0; g < n_groups; g += kStripGroups) {
    const int64_t here = n_groups - g < kStripGroups ? n_groups - g : kStripGroups, last = 4 * here - 1;
    for (int64_t i = 0; i < n_panels; ++i) {
      for (int64_t j = 0; j < here; ++j) index_group(panels, p + i, g + j, at.indices + (kStripGroups * i + j) * kIndexBytes);
    }
    for (int64_t side = 0; side < n_sides; ++side) {
      const int64_t first = side * kSide, block = kGroupBlocks * g;
      columns_of(x, first, n - first, kPanelDepth * block, panels.n_blocks - block, at.columns);
      int32_t* sums = at.sums + side * n_rows * kSide;
      for (int64_t q = 0; q <= last; ++q) {
        const int64_t group = q / 4, quarter = q % 4;
        fill_tables(at.columns + group * kTritDepth * kSide, quarter, at.tables);
        const auto add = q == 0 ? add_sums<true, false> : q < last ? add_sums<false, false> : add_sums<false, true>;
        add(at.tables, at.indices + group * kIndexBytes, quarter, n_panels, at.words, sums);
      }
    }
  }
  for (int64_t side = 0; side < n_sides; ++side) {
    const int64_t first = side * kSide;
    put_sums(x, first, n - first < kSide ? n - first : kSide, panels, p, n_panels, at.sums + side * n_rows * kSide);
  }
}

// Several tokens: many by tables, 32 after 32, the rest as few are. Panels come from memory once for every so many tokens.
template <class P>
void gemm(const Call& call, int64_t begin, int64_t end, Work& work) {
  const P panels(call.weights[0]);
  const int64_t n_pieces = (end - begin + kTablePanels - 1) / kTablePanels;
  for (int64_t i = 0; i < n_pieces; ++i) {
    const int64_t p = begin + tile_start(i, end - begin, n_pieces), stop = begin + tile_start(i + 1, end - begin, n_pieces);
    for (int64_t first = 0; first < call.t;) {
      const int64_t left = call.t - first, most = stop - p < kLeastPanels ? kStreamed : kTableBlocks * kSide;
      int64_t n = left < most ? left : most;
      if (n > kStreamed && n % kSide <= kStreamed) n -= n % kSide;
      if (n <= kStreamed) {
        stream(Tokens(call, first), n, panels, p, stop);
      } else {
        multiply_by_tables(Tokens(call, first), n, panels, p, stop - p, call.scratch);
      }
      first += n;
    }
  }
  count_linear(call, panels, begin, end, work);
}

#define TRITIUM_FORMS_TABLES
KERNEL_FUNCTION(i2s_gemm) { gemm<Panels>(call, begin, end, work); }
KERNEL_FUNCTION(tq1_gemm) { gemm<TritPanels>(call, begin, end, work); }

}  // namespace
}  // namespace tritium
