#include "pack.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kernel.h"
#include "plan.h"
#include "thread_pool.h"

namespace tritium {

namespace {

constexpr int64_t kTailBytes = 32;
constexpr int64_t kBlockBytes = 64;          // of a panel: 16 rows × 16 columns
constexpr uint32_t kZeroCodes = 0x55555555;  // sixteen codes 1
constexpr int64_t kMaxDimension = int64_t{1} << 28;

int64_t block_weights(Dialect dialect) { return dialect == Dialect::blocks128 ? 128 : dialect == Dialect::blocks64 ? 64 : 4; }

[[noreturn]] void fail(size_t part, const std::string& what) {
  throw std::invalid_argument("part " + std::to_string(part) + ": " + what);
}

void check_part(const PackPart& p, size_t index, int64_t cols) {
  if (p.rows < 1 || p.cols < 1 || p.rows > kMaxDimension || p.cols > kMaxDimension) fail(index, "rows or columns out of range");
  if (p.cols != cols) fail(index, "expected " + std::to_string(cols) + " columns, got " + std::to_string(p.cols));
  const int64_t count = p.rows * p.cols;
  int64_t expected = count;
  if (p.dialect != Dialect::trits) {
    if (count % block_weights(p.dialect) != 0) fail(index, "the number of weights is not a multiple of a block");
    if (p.dialect == Dialect::rows4 && p.rows % 4 != 0) fail(index, "rows: expected a multiple of 4");
    expected = count / 4 + kTailBytes;
  }
  if (static_cast<int64_t>(p.data.size()) != expected) {
    fail(index, "expected " + std::to_string(expected) + " bytes, got " + std::to_string(p.data.size()));
  }
}

uint32_t load32(const uint8_t* p) {
  uint32_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

uint64_t load64(const uint8_t* p) {
  uint64_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

void store32(uint8_t* p, uint32_t x) { std::memcpy(p, &x, sizeof x); }

// One row of one block of 128 weights, 32 bytes, to 8 words of 16 codes, 64 bytes apart. In the file byte p = 4j + b of each half
// holds weights j·4 + b of four runs, one a bit pair; in a panel byte b of a run's word holds weights 4j + b, one a bit pair: a
// transposition of bit pairs, both halves at once in 64 bits. Returns nonzero if a code is 3.
uint64_t pack_block128(const uint8_t* in, uint8_t* out) {
  constexpr uint64_t kPair = 0x0303030303030303, kLow = 0xffffffff;
  const uint64_t a = load64(in), b = load64(in + 8), c = load64(in + 16), d = load64(in + 24);
  const uint64_t w0 = (a & kLow) | (c << 32), w1 = (a >> 32) | (c & ~kLow);
  const uint64_t w2 = (b & kLow) | (d << 32), w3 = (b >> 32) | (d & ~kLow);
  for (int run = 0; run < 4; ++run) {
    const int shift = 6 - 2 * run;
    const uint64_t codes = ((w0 >> shift) & kPair) | ((w1 >> shift) & kPair) << 2 | ((w2 >> shift) & kPair) << 4 |
                           ((w3 >> shift) & kPair) << 6;
    store32(out + (2 * run) * kBlockBytes, static_cast<uint32_t>(codes));
    store32(out + (2 * run + 1) * kBlockBytes, static_cast<uint32_t>(codes >> 32));
  }
  constexpr uint64_t kOdd = 0x5555555555555555;
  return ((a & (a >> 1)) | (b & (b >> 1)) | (c & (c >> 1)) | (d & (d >> 1))) & kOdd;
}

// Weights [first, first + 4·run) of a flat block of four runs, a byte a code.
template <int kRun>
void unpack_block(const uint8_t* in, uint8_t* codes) {
  for (int run = 0; run < 4; ++run) {
    for (int p = 0; p < kRun; ++p) codes[run * kRun + p] = (in[p] >> (6 - 2 * run)) & 3;
  }
}

template <int kRun>
const uint8_t* unpack_flat(const PackPart& part, int64_t row, std::vector<uint8_t>& codes) {
  constexpr int64_t kWeights = 4 * kRun;
  const int64_t first = row * part.cols, start = first / kWeights, stop = (first + part.cols + kWeights - 1) / kWeights;
  codes.resize(static_cast<size_t>((stop - start) * kWeights + kPanelDepth));
  for (int64_t b = start; b < stop; ++b) {
    unpack_block<kRun>(part.data.data() + b * kRun, codes.data() + (b - start) * kWeights);
  }
  return codes.data() + (first - start * kWeights);
}

// One row's codes, a byte each, with room for a whole number of words behind them.
const uint8_t* row_codes(const PackPart& part, int64_t row, std::vector<uint8_t>& codes) {
  if (part.dialect == Dialect::blocks128) return unpack_flat<32>(part, row, codes);
  if (part.dialect == Dialect::blocks64) return unpack_flat<16>(part, row, codes);
  codes.resize(static_cast<size_t>(part.cols + kPanelDepth));
  if (part.dialect == Dialect::rows4) {
    const uint8_t* in = part.data.data() + row / 4 * part.cols;
    const int shift = 6 - 2 * static_cast<int>(row % 4);
    for (int64_t c = 0; c < part.cols; ++c) codes[static_cast<size_t>(c)] = (in[c] >> shift) & 3;
  } else {
    const uint8_t* in = part.data.data() + row * part.cols;
    for (int64_t c = 0; c < part.cols; ++c) codes[static_cast<size_t>(c)] = static_cast<uint8_t>(in[c] + 1);
  }
  return codes.data();
}

// A row of codes to words of 16 codes, 64 bytes apart. False if one is not 0, 1 or 2.
bool pack_codes(const uint8_t* codes, int64_t cols, uint8_t* out) {
  uint32_t bad = 0;
  for (int64_t k = 0; k < cols; k += kPanelDepth) {
    uint8_t tail[kPanelDepth];
    const uint8_t* in = codes + k;
    if (cols - k < kPanelDepth) {
      std::memset(tail, 1, sizeof tail);
      std::memcpy(tail, in, static_cast<size_t>(cols - k));
      in = tail;
    }
    const uint32_t w0 = load32(in), w1 = load32(in + 4), w2 = load32(in + 8), w3 = load32(in + 12);
    for (uint32_t w : {w0, w1, w2, w3}) bad |= (w & 0xfcfcfcfc) | (w & (w >> 1) & 0x01010101);
    store32(out + k / kPanelDepth * kBlockBytes, w0 | w1 << 2 | w2 << 4 | w3 << 6);
  }
  return bad == 0;
}

// The lowest byte of the panel's rows that holds something else than codes 0, 1, 2. Flat blocks may begin before the first row.
int64_t find_bad_byte(const PackPart& part, int64_t first_row, int64_t n_rows) {
  int64_t begin = first_row * part.cols, end = (first_row + n_rows) * part.cols;
  if (part.dialect != Dialect::trits) {
    const int64_t weights = block_weights(part.dialect);
    begin = begin / weights * (weights / 4);
    end = (end + weights - 1) / weights * (weights / 4);
  }
  for (int64_t i = begin; i < end; ++i) {
    const uint8_t x = part.data[static_cast<size_t>(i)];
    if (part.dialect == Dialect::trits ? static_cast<uint8_t>(x + 1) > 2 : (x & (x >> 1) & 0x55) != 0) return i;
  }
  return -1;
}

struct Job {
  std::span<const PackPart> parts;
  std::vector<int64_t> first_panel;  // of each part, and the total
  uint8_t* out;
  int64_t panel_bytes;
  std::atomic<int64_t> next{0};
  std::vector<std::pair<int64_t, int64_t>> bad;  // first (part, byte) that each worker found, or (n_parts, 0)
  std::atomic<bool> out_of_memory{false};
};

bool pack_panel(const PackPart& part, int64_t first_row, int64_t n_rows, uint8_t* out, std::vector<uint8_t>& codes) {
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

void pack_some(Job& job, int worker) {
  constexpr int64_t kChunk = 4;
  const int64_t n_panels = job.first_panel.back();
  auto& bad = job.bad[static_cast<size_t>(worker)];
  std::vector<uint8_t> codes;
  for (int64_t begin; (begin = job.next.fetch_add(kChunk)) < n_panels;) {
    for (int64_t panel = begin; panel < std::min(begin + kChunk, n_panels); ++panel) {
      const auto after = std::upper_bound(job.first_panel.begin(), job.first_panel.end(), panel);
      const int64_t index = after - job.first_panel.begin() - 1;
      const PackPart& part = job.parts[static_cast<size_t>(index)];
      const int64_t first_row = (panel - job.first_panel[static_cast<size_t>(index)]) * kPanelRows;
      const int64_t n_rows = std::min(int64_t{kPanelRows}, part.rows - first_row);
      if (!pack_panel(part, first_row, n_rows, job.out + panel * job.panel_bytes, codes)) {
        bad = std::min(bad, {index, find_bad_byte(part, first_row, n_rows)});
      }
      std::memcpy(job.out + n_panels * job.panel_bytes + panel * 4, &part.scale, sizeof part.scale);
    }
  }
}

}  // namespace

Pages pack_panels(std::span<const PackPart> parts, int n_threads) {
  if (parts.empty()) throw std::invalid_argument("no parts to pack");
  const int64_t n_parts = static_cast<int64_t>(parts.size());
  Job job;
  job.parts = parts;
  job.first_panel.push_back(0);
  for (size_t i = 0; i < parts.size(); ++i) {
    check_part(parts[i], i, parts[0].cols);
    job.first_panel.push_back(job.first_panel.back() + (parts[i].rows + kPanelRows - 1) / kPanelRows);
  }
  const int64_t n_panels = job.first_panel.back();
  Pages panels(resident_bytes("i2s", n_panels * kPanelRows, parts[0].cols));
  job.out = panels.data();
  job.panel_bytes = (parts[0].cols + kPanelDepth - 1) / kPanelDepth * kBlockBytes;
  ThreadPool pool(static_cast<int>(std::clamp<int64_t>(n_panels / 4, 1, n_threads)));
  job.bad.assign(static_cast<size_t>(pool.size()), {n_parts, 0});
  pool.run(
      [](void* context, int worker) {
        Job& shared = *static_cast<Job*>(context);
        try {
          pack_some(shared, worker);
        } catch (const std::bad_alloc&) {
          shared.out_of_memory = true;
        }
      },
      &job);
  if (job.out_of_memory) throw std::bad_alloc();
  const auto first = *std::min_element(job.bad.begin(), job.bad.end());
  if (first.first < n_parts) throw CodeError(first.first, first.second);
  return panels;
}

}  // namespace tritium
