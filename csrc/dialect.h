// Ternary tensors as files store them: in what order their codes stand, and one row of them, a byte a code.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>

namespace tritium {

// The orders of I2_S codes in a file, blocks of 128 or 64 weights over the flat tensor, or four rows a byte; ggml's blocks of 256.
enum class Dialect { blocks128, blocks64, rows4, tq1_0, tq2_0, trits };

// `data` holds the codes and I2_S's 32 bytes of tail, or whole blocks of TQ1_0 or TQ2_0, whose own scales `scale` stands for, or for
// Dialect::trits one int8 in {-1, 0, 1} a weight.
struct PackPart {
  std::span<const uint8_t> data;
  int64_t rows;
  int64_t cols;
  float scale;
  Dialect dialect;
};

// A code 3, or a byte that is no trit: the first of the first part that has one.
struct CodeError : std::invalid_argument {
  CodeError(int64_t part_index, int64_t byte_offset)
      : std::invalid_argument("part " + std::to_string(part_index) + ", byte " + std::to_string(byte_offset) +
                              ": not a ternary code"),
        part(part_index),
        offset(byte_offset) {}
  int64_t part;
  int64_t offset;
};

constexpr int64_t kTailBytes = 32;
constexpr uint64_t kPairs = 0x0303030303030303;  // the lowest bit pair of each byte
constexpr int64_t kMostCodesMore = 2 * 128;      // the blocks at both ends belong to other rows too

// Weights of a block of a file, bytes of their codes, and all its bytes.
struct DialectBlock {
  int64_t weights, code_bytes, bytes;
};

DialectBlock block_of(Dialect dialect);
bool has_own_scales(Dialect dialect);

[[noreturn]] inline void refuse_part(size_t part, const std::string& what) {
  throw std::invalid_argument("part " + std::to_string(part) + ": " + what);
}

// Throws std::invalid_argument for a part of another number of columns, or whose size does not follow from its shape.
void check_part(const PackPart& p, size_t index, int64_t cols);

// One row's codes, a byte each, somewhere in `codes`, which holds kMostCodesMore more than a row.
const uint8_t* row_codes(const PackPart& part, int64_t row, uint8_t* codes);

// The lowest byte of the panel's rows that holds something else than codes 0, 1, 2. Flat blocks may begin before the first row.
int64_t find_bad_byte(const PackPart& part, int64_t first_row, int64_t n_rows);

inline uint64_t load64(const uint8_t* p) {
  uint64_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline void store32(uint8_t* p, uint32_t x) { std::memcpy(p, &x, sizeof x); }
inline void store64(uint8_t* p, uint64_t x) { std::memcpy(p, &x, sizeof x); }

}  // namespace tritium
