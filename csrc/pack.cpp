#include "pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "half.h"
#include "kernel.h"
#include "plan.h"
#include "thread_pool.h"

namespace tritium {

namespace {

constexpr int64_t kBlockBytes = 64;          // of a panel: 16 rows × 16 columns
constexpr uint32_t kZeroCodes = 0x55555555;  // sixteen codes 1

// One row of one block of 128 weights, 32 bytes, to 8 words of 16 codes, 64 bytes apart. In the file byte p = 4j + b of each half
// holds weights j·4 + b of four runs, one a bit pair; in a panel byte b of a run's word holds weights 4j + b, one a bit pair: a
// transposition of bit pairs, both halves at once in 64 bits. Returns nonzero if a code is 3.
uint64_t pack_block128(const uint8_t* in, uint8_t* out) {
  constexpr uint64_t kLow = 0xffffffff;
  const uint64_t a = load64(in), b = load64(in + 8), c = load64(in + 16), d = load64(in + 24);
  const uint64_t w0 = (a & kLow) | (c << 32), w1 = (a >> 32) | (c & ~kLow);
  const uint64_t w2 = (b & kLow) | (d << 32), w3 = (b >> 32) | (d & ~kLow);
  for (int run = 0; run < 4; ++run) {
    const int shift = 6 - 2 * run;
    const uint64_t codes = ((w0 >> shift) & kPairs) | ((w1 >> shift) & kPairs) << 2 | ((w2 >> shift) & kPairs) << 4 |
                           ((w3 >> shift) & kPairs) << 6;
    store32(out + (2 * run) * kBlockBytes, static_cast<uint32_t>(codes));
    store32(out + (2 * run + 1) * kBlockBytes, static_cast<uint32_t>(codes >> 32));
  }
  constexpr uint64_t kOdd = 0x5555555555555555;
  return ((a & (a >> 1)) | (b & (b >> 1)) | (c & (c >> 1)) | (d & (d >> 1))) & kOdd;
}

// A row of codes to words of 16 codes, 64 bytes apart. False if one is not 0, 1 or 2.
bool pack_codes(const uint8_t* codes, int64_t cols, uint8_t* out) {
  uint64_t bad = 0;
  for (int64_t k = 0; k < cols; k += kPanelDepth) {
    uint8_t tail[kPanelDepth];
    const uint8_t* in = codes + k;
    if (cols - k < kPanelDepth) {
      std::memset(tail, 1, sizeof tail);
      std::memcpy(tail, in, static_cast<size_t>(cols - k));
      in = tail;
    }
    const uint64_t a = load64(in), b = load64(in + 8);
    bad |= ((a | b) & ~kPairs) | (((a & (a >> 1)) | (b & (b >> 1))) & 0x0101010101010101);
    const uint64_t even = a | b << 4, odd = even >> 32;
    store32(out + k / kPanelDepth * kBlockBytes, static_cast<uint32_t>(even | odd << 2));
  }
  return bad == 0;
}

bool pack_panel(const PackPart& part, int64_t first_row, int64_t n_rows, uint8_t* out, uint8_t* codes) {
  bool good = true;
  if (part.dialect == Dialect::blocks128 && part.cols % 128 == 0) {
    // Across the rows first: the output of one column of blocks is 512 bytes side by side.
    const int64_t row_bytes = part.cols / 4;
    const uint8_t* in = part.data.data() + first_row * row_bytes;
    uint64_t bad = 0;
    for (int64_t block = 0; block < part.cols / 128; ++block) {
      for (int64_t r = 0; r < n_rows; ++r) {
        bad |= pack_block128(in + r * row_bytes + block * 32, out + block * 8 * kBlockBytes + 4 * r);
      }
    }
    good = bad == 0;
  } else {
    for (int64_t r = 0; r < n_rows; ++r) {
      good &= pack_codes(row_codes(part, first_row + r, codes), part.cols, out + 4 * r);
    }
  }
  for (int64_t r = n_rows; r < kPanelRows; ++r) {
    for (int64_t k = 0; k < part.cols; k += kPanelDepth) store32(out + k / kPanelDepth * kBlockBytes + 4 * r, kZeroCodes);
  }
  return good;
}

// Rows [256·block, 256·block + 256) of a tensor as bytes [64·block, 64·block + 64) of every column: `bytes` holds 64 rows of bytes,
// one a column, each with the codes of four rows.
bool pack_column_block(const PackPart& part, int64_t block, int64_t column_bytes, uint8_t* out, uint8_t* codes, uint8_t* bytes) {
  const int64_t cols = part.cols;
  bool good = true;
  for (int64_t p = 0; p < kBlockBytes; ++p) {
    uint8_t* line = bytes + p * cols;
    std::memset(line, 0, static_cast<size_t>(cols));
    for (int j = 0; j < 4; ++j) {
      const int64_t row = kColumnRows * block + 64 * j + p / 4 % 4 * 16 + p / 16 * 4 + p % 4;
      if (row >= part.rows) {
        for (int64_t c = 0; c < cols; ++c) line[c] |= static_cast<uint8_t>(1 << 2 * j);
        continue;
      }
      const uint8_t* in = row_codes(part, row, codes);
      uint8_t greatest = 0;
      for (int64_t c = 0; c < cols; ++c) {
        greatest = std::max(greatest, in[c]);
        line[c] |= static_cast<uint8_t>(in[c] << 2 * j);
      }
      good &= greatest <= 2;
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t p = 0; p < kBlockBytes; ++p) out[c * column_bytes + block * kBlockBytes + p] = bytes[p * cols + c];
  }
  return good;
}

// An i2s panel of a tensor with its own scales, as groups that each end with those of their rows.
void pack_scaled_panel(const PackPart& part, int64_t first_row, int64_t n_rows, const uint8_t* codes, uint8_t* out) {
  constexpr int64_t kCodes = kScaleGroup / kPanelDepth * kBlockBytes;
  const DialectBlock block = block_of(part.dialect);
  const int64_t n_groups = part.cols / kScaleGroup;
  for (int64_t g = 0; g < n_groups; ++g) {
    std::memcpy(out, codes + g * kCodes, kCodes);
    out += kCodes;
    for (int64_t r = 0; r < kPanelRows; ++r, out += sizeof(float)) {
      const int64_t at = ((first_row + r) * n_groups + g) * block.bytes + block.code_bytes;
      const float scale = r < n_rows ? from_f16(half_at(part.data.data() + at)) : 0.0f;
      std::memcpy(out, &scale, sizeof scale);
    }
  }
}

// A row of codes to blocks of 128, the first of their four runs in the highest bit pair. False if one is not 0, 1 or 2.
bool pack_row(const uint8_t* codes, int64_t cols, uint8_t* out) {
  uint64_t bad = 0;
  for (int64_t k = 0; k < cols; k += 128, out += 32) {
    for (int p = 0; p < 32; p += 8) {
      const uint64_t a = load64(codes + k + p), b = load64(codes + k + 32 + p);
      const uint64_t c = load64(codes + k + 64 + p), d = load64(codes + k + 96 + p);
      const uint64_t packed = a << 6 | b << 4 | c << 2 | d;
      bad |= ((a | b | c | d) & ~kPairs) | (packed & (packed >> 1) & 0x5555555555555555);
      store64(out + p, packed);
    }
  }
  return bad == 0;
}

// Four codes of a byte as one number of base 3.
constexpr std::array<uint8_t, 256> kBase3 = [] {
  std::array<uint8_t, 256> table{};
  for (int i = 0; i < 256; ++i) table[static_cast<size_t>(i)] = static_cast<uint8_t>((i & 3) + 3 * (i >> 2 & 3) + 9 * (i >> 4 & 3) + 27 * (i >> 6));
  return table;
}();

// The codes of byte b, b + 4, … of a block that stand for columns in front of the last.
uint8_t columns_kept(int64_t first, int64_t b, int64_t cols) {
  uint8_t kept = 0;
  for (int64_t j = 0; j < 4; ++j) kept |= static_cast<uint8_t>(first + 4 * j + b < cols ? 3 << 2 * j : 0);
  return kept;
}

}  // namespace

void pack_trit_panel(const uint8_t* codes, int64_t cols, uint8_t* out) {
  constexpr int64_t kBlocks = kTritDepth / kPanelDepth;
  for (int64_t first = 0; first < cols; first += kTritDepth) {
    uint8_t group[kBlocks][kBlockBytes] = {};
    for (int64_t i = 0; i < kBlocks; ++i) {
      const int64_t k = first + kPanelDepth * i;
      if (k >= cols) break;
      for (int64_t p = 0; p < kBlockBytes; ++p) {
        const uint8_t byte = codes[k / kPanelDepth * kBlockBytes + p];
        group[i][p] = k + kPanelDepth <= cols ? byte : static_cast<uint8_t>(byte & columns_kept(k, p % 4, cols));
      }
    }
    for (int64_t i = 0; i < 4; ++i, out += kBlockBytes) {
      for (int64_t p = 0; p < kBlockBytes; ++p) {
        out[p] = static_cast<uint8_t>(kBase3[group[i][p]] + kFifthDigit * (group[4][p] >> 2 * i & 3));
      }
    }
  }
}

Pages pack_panels(std::span<const PackPart> parts, int n_threads, std::string_view layout) {
  const bool is_dense = layout == "tq1", is_scaled = layout == "i2s_groups";
  if (layout != "i2s" && !is_dense && !is_scaled) {
    throw std::invalid_argument("layout: expected i2s, tq1 or i2s_groups, got " + std::string(layout));
  }
  if (parts.empty()) throw std::invalid_argument("no parts to pack");
  std::vector<int64_t> first_panel{0};  // of each part, and the total
  for (size_t i = 0; i < parts.size(); ++i) {
    check_part(parts[i], i, parts[0].cols);
    if (is_scaled && !has_own_scales(parts[i].dialect)) refuse_part(i, "expected a scale a group");
    first_panel.push_back(first_panel.back() + (parts[i].rows + kPanelRows - 1) / kPanelRows);
  }
  const int64_t n_panels = first_panel.back(), size = panel_bytes(layout, parts[0].cols);
  Pages panels(resident_bytes(std::string(layout), n_panels * kPanelRows, parts[0].cols), PageSize::huge);
  ThreadPool pool(n_threads > 1 ? static_cast<int>(std::clamp<int64_t>(n_panels / 4, 1, n_threads)) : n_threads);
  const auto row = static_cast<size_t>(parts[0].cols + kMostCodesMore);
  const auto two_bits = static_cast<size_t>(is_dense || is_scaled ? panel_bytes("i2s", parts[0].cols) : 0);
  std::vector<std::vector<uint8_t>> space(static_cast<size_t>(pool.size()), std::vector<uint8_t>(row + two_bits));
  // First (part, byte) that each worker found bad.
  const std::pair<int64_t, int64_t> none{static_cast<int64_t>(parts.size()), 0};
  std::vector<std::pair<int64_t, int64_t>> bad(static_cast<size_t>(pool.size()), none);
  pool.run({n_panels, 4}, [&](int worker, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const auto after = std::upper_bound(first_panel.begin(), first_panel.end(), panel);
      const int64_t index = after - first_panel.begin() - 1;
      const PackPart& part = parts[static_cast<size_t>(index)];
      const int64_t first_row = (panel - first_panel[static_cast<size_t>(index)]) * kPanelRows;
      const int64_t n_rows = std::min(int64_t{kPanelRows}, part.rows - first_row);
      const size_t me = static_cast<size_t>(worker);
      uint8_t *codes = space[me].data(), *out = panels.data() + panel * size;
      if (!pack_panel(part, first_row, n_rows, two_bits != 0 ? codes + row : out, codes)) {
        bad[me] = std::min(bad[me], {index, find_bad_byte(part, first_row, n_rows)});
      }
      if (is_scaled) {
        pack_scaled_panel(part, first_row, n_rows, codes + row, out);
        continue;
      }
      if (is_dense) pack_trit_panel(codes + row, part.cols, out);
      std::memcpy(panels.data() + n_panels * size + panel * 4, &part.scale, sizeof part.scale);
    }
  });
  const auto first = *std::min_element(bad.begin(), bad.end());
  if (first != none) throw CodeError(first.first, first.second);
  return panels;
}

Pages pack_rows(const PackPart& part, int n_threads) {
  check_part(part, 0, part.cols);
  if (part.cols % 128 != 0) refuse_part(0, "columns: expected a multiple of 128, got " + std::to_string(part.cols));
  const int64_t row_bytes = part.cols / 4;
  Pages rows(resident_bytes("i2_s", part.rows, part.cols), PageSize::huge);
  ThreadPool pool(n_threads > 1 ? static_cast<int>(std::clamp<int64_t>(part.rows / 64, 1, n_threads)) : n_threads);
  const auto width = static_cast<size_t>(part.cols + kMostCodesMore);
  std::vector<std::vector<uint8_t>> space(static_cast<size_t>(pool.size()), std::vector<uint8_t>(width));
  std::vector<int64_t> bad(static_cast<size_t>(pool.size()), part.rows);
  pool.run({part.rows, 16}, [&](int worker, int64_t begin, int64_t end) {
    const auto me = static_cast<size_t>(worker);
    for (int64_t r = begin; r < end; ++r) {
      const uint8_t* codes = row_codes(part, r, space[me].data());
      if (!pack_row(codes, part.cols, rows.data() + r * row_bytes)) bad[me] = std::min(bad[me], r);
    }
  });
  const int64_t first = *std::min_element(bad.begin(), bad.end());
  if (first < part.rows) throw CodeError(0, find_bad_byte(part, first, 1));
  std::memset(rows.data() + part.rows * row_bytes, 0, kTailBytes);
  std::memcpy(rows.data() + part.rows * row_bytes, &part.scale, sizeof part.scale);
  return rows;
}

Pages pack_columns(const PackPart& part, int n_threads) {
  check_part(part, 0, part.cols);
  const int64_t n_blocks = (part.rows + kColumnRows - 1) / kColumnRows, column_bytes = n_blocks * kBlockBytes;
  Pages columns(resident_bytes("i2s_columns", part.rows, part.cols), PageSize::huge);
  ThreadPool pool(n_threads > 1 ? static_cast<int>(std::clamp<int64_t>(n_blocks, 1, n_threads)) : n_threads);
  const auto row = static_cast<size_t>(part.cols + kMostCodesMore);
  std::vector<std::vector<uint8_t>> space(static_cast<size_t>(pool.size()), std::vector<uint8_t>(row * (kBlockBytes + 1)));
  std::vector<int64_t> bad(static_cast<size_t>(pool.size()), n_blocks);
  pool.run({n_blocks, 1}, [&](int worker, int64_t begin, int64_t end) {
    uint8_t* mine = space[static_cast<size_t>(worker)].data();
    for (int64_t b = begin; b < end; ++b) {
      int64_t& first = bad[static_cast<size_t>(worker)];
      if (!pack_column_block(part, b, column_bytes, columns.data(), mine, mine + row)) first = std::min(first, b);
    }
  });
  const int64_t first = *std::min_element(bad.begin(), bad.end());
  if (first < n_blocks) {
    throw CodeError(0, find_bad_byte(part, first * kColumnRows, std::min(kColumnRows, part.rows - first * kColumnRows)));
  }
  std::memcpy(columns.data() + part.cols * column_bytes, &part.scale, sizeof part.scale);
  return columns;
}

}  // namespace tritium
