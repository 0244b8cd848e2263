// Ternary tensors of a file become the executor's panels (kernel.h), several tensors stacked, each padded to whole panels.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "dialect.h"
#include "platform.h"

namespace tritium {

// Panels of layout "i2s" or "tq1", or "i2s_groups" of parts with their own scales. Throws CodeError, and std::invalid_argument for
// another layout or when a part's size does not follow from its shape.
Pages pack_panels(std::span<const PackPart> parts, int n_threads, std::string_view layout = "i2s");

// A panel of layout tq1 from one of i2s of so many columns.
void pack_trit_panel(const uint8_t* codes, int64_t cols, uint8_t* out);

// The i2_s layout of one tensor (kernel.h), which has a multiple of 128 columns. Throws as pack_panels.
Pages pack_rows(const PackPart& part, int n_threads);

// The i2s_columns layout of one tensor (kernel.h). Throws as pack_panels.
Pages pack_columns(const PackPart& part, int n_threads);

}  // namespace tritium
