#include "dialect.h"

namespace tritium {

namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 28;

// Weights [first, first + 4·run) of a flat block of four runs, a byte a code.
template <int kRun>
void unpack_block(const uint8_t* in, uint8_t* codes) {
  for (int run = 0; run < 4; ++run) {
    for (int p = 0; p < kRun; p += 8) store64(codes + run * kRun + p, (load64(in + p) >> (6 - 2 * run)) & kPairs);
  }
}

template <int kRun>
const uint8_t* unpack_flat(const PackPart& part, int64_t row, uint8_t* codes) {
  constexpr int64_t kWeights = 4 * kRun;
  const int64_t first = row * part.cols, start = first / kWeights, stop = (first + part.cols + kWeights - 1) / kWeights;
  for (int64_t b = start; b < stop; ++b) {
    unpack_block<kRun>(part.data.data() + b * kRun, codes + (b - start) * kWeights);
  }
  return codes + (first - start * kWeights);
}

// Two flat blocks of four runs of 32, the first run in the lowest bit pair.
void unpack_tq2_0(const uint8_t* in, uint8_t* codes) {
  for (int half = 0; half < 2; ++half) {
    for (int run = 0; run < 4; ++run) {
      for (int p = 0; p < 32; p += 8) {
        store64(codes + 128 * half + 32 * run + p, (load64(in + 32 * half + p) >> 2 * run) & kPairs);
      }
    }
  }
}

// Eight bytes, fractions of 256 in base 3, to their first `digits` digits, `run` bytes apart: each the carry of three times what is
// left, at most 765.
void unpack_digits(uint64_t bytes, int digits, int64_t run, uint8_t* codes) {
  constexpr uint64_t kEven = 0x00ff00ff00ff00ff;
  uint64_t even = bytes & kEven, odd = (bytes >> 8) & kEven;
  for (int digit = 0; digit < digits; ++digit, codes += run) {
    even *= 3;
    odd *= 3;
    store64(codes, ((even >> 8) & kEven) | (odd & ~kEven));
    even &= kEven;
    odd &= kEven;
  }
}

// 32 bytes of five digits, 16 of five, 4 of four: words that are written too far are written again, the last over the row's end.
void unpack_tq1_0(const uint8_t* in, uint8_t* codes) {
  for (int p = 0; p < 32; p += 8) unpack_digits(load64(in + p), 5, 32, codes + p);
  for (int p = 0; p < 16; p += 8) unpack_digits(load64(in + 32 + p), 5, 16, codes + 160 + p);
  uint32_t last;
  std::memcpy(&last, in + 48, sizeof last);
  unpack_digits(last, 4, 4, codes + 240);
}

}  // namespace

DialectBlock block_of(Dialect dialect) {
  switch (dialect) {
    case Dialect::blocks128: return {128, 32, 32};
    case Dialect::blocks64: return {64, 16, 16};
    case Dialect::rows4: return {4, 1, 1};
    case Dialect::tq1_0: return {256, 52, 54};
    case Dialect::tq2_0: return {256, 64, 66};
    case Dialect::trits: break;
  }
  return {1, 1, 1};
}

bool has_own_scales(Dialect dialect) { return dialect == Dialect::tq1_0 || dialect == Dialect::tq2_0; }

void check_part(const PackPart& p, size_t index, int64_t cols) {
  if (p.rows < 1 || p.cols < 1 || p.rows > kMaxDimension || p.cols > kMaxDimension) refuse_part(index, "rows or columns out of range");
  if (p.cols != cols) refuse_part(index, "expected " + std::to_string(cols) + " columns, got " + std::to_string(p.cols));
  const DialectBlock block = block_of(p.dialect);
  const int64_t count = p.rows * p.cols;
  if ((has_own_scales(p.dialect) ? p.cols : count) % block.weights != 0) {
    refuse_part(index, "the number of weights is not a multiple of a block");
  }
  if (p.dialect == Dialect::rows4 && p.rows % 4 != 0) refuse_part(index, "rows: expected a multiple of 4");
  const bool has_tail = p.dialect != Dialect::trits && !has_own_scales(p.dialect);
  const int64_t expected = count / block.weights * block.bytes + (has_tail ? kTailBytes : 0);
  if (static_cast<int64_t>(p.data.size()) != expected) {
    refuse_part(index, "expected " + std::to_string(expected) + " bytes, got " + std::to_string(p.data.size()));
  }
}

const uint8_t* row_codes(const PackPart& part, int64_t row, uint8_t* codes) {
  if (part.dialect == Dialect::blocks128) return unpack_flat<32>(part, row, codes);
  if (part.dialect == Dialect::blocks64) return unpack_flat<16>(part, row, codes);
  if (has_own_scales(part.dialect)) {
    const DialectBlock block = block_of(part.dialect);
    const int64_t n_blocks = part.cols / block.weights;
    const uint8_t* in = part.data.data() + row * n_blocks * block.bytes;
    for (int64_t b = 0; b < n_blocks; ++b) {
      (part.dialect == Dialect::tq1_0 ? unpack_tq1_0 : unpack_tq2_0)(in + b * block.bytes, codes + b * block.weights);
    }
  } else if (part.dialect == Dialect::rows4) {
    const uint8_t* in = part.data.data() + row / 4 * part.cols;
    const int shift = 6 - 2 * static_cast<int>(row % 4);
    // A row's bytes are followed by more rows or by the tail, so whole words can be read.
    for (int64_t c = 0; c < part.cols; c += 8) store64(codes + c, (load64(in + c) >> shift) & kPairs);
  } else {
    const uint8_t* in = part.data.data() + row * part.cols;
    for (int64_t c = 0; c < part.cols; ++c) codes[c] = static_cast<uint8_t>(in[c] + 1);
  }
  return codes;
}

int64_t find_bad_byte(const PackPart& part, int64_t first_row, int64_t n_rows) {
  const DialectBlock block = block_of(part.dialect);
  const int64_t begin = first_row * part.cols / block.weights;
  const int64_t end = ((first_row + n_rows) * part.cols + block.weights - 1) / block.weights;
  for (int64_t b = begin; b < end; ++b) {
    for (int64_t i = b * block.bytes; i < b * block.bytes + block.code_bytes; ++i) {
      const uint8_t x = part.data[static_cast<size_t>(i)];
      if (part.dialect == Dialect::trits ? static_cast<uint8_t>(x + 1) > 2 : (x & (x >> 1) & 0x55) != 0) return i;
    }
  }
  return -1;
}

}  // namespace tritium
