// Ternary tensors of a file become the executor's panels (kernel.h), several tensors stacked, each padded to whole panels.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "platform.h"

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

// Panels of layout "i2s" or "tq1", or "i2s_groups" of parts with their own scales. Throws CodeError, and std::invalid_argument for another layout or when a part's size does not
// follow from its shape.
Pages pack_panels(std::span<const PackPart> parts, int n_threads, std::string_view layout = "i2s");

// A panel of layout tq1 from one of i2s of so many columns.
void pack_trit_panel(const uint8_t* codes, int64_t cols, uint8_t* out);

// The i2_s layout of one tensor (kernel.h), which has a multiple of 128 columns. Throws as pack_panels.
Pages pack_rows(const PackPart& part, int n_threads);

// The i2s_columns layout of one tensor (kernel.h). Throws as pack_panels.
Pages pack_columns(const PackPart& part, int n_threads);

}  // namespace tritium
