// The head of a model as 8-bit rows in two halves, with bounds on what they leave out: the plane44 layout of kernel.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "platform.h"

namespace tritium {

// `rows` × `cols` weights of layout f32, f16, bf16, q8_0 or q6_k. Throws std::invalid_argument for another layout or size.
Pages pack_plane(std::span<const uint8_t> data, const std::string& layout, int64_t rows, int64_t cols, int n_threads);

// True if every one of the numbers, of layout f32, f16 or bf16, is finite. Throws std::invalid_argument for another layout.
bool all_finite(std::span<const uint8_t> data, const std::string& layout, int n_threads);

}  // namespace tritium
