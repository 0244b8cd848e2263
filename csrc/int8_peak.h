// The measured limit of the integer kernels.
#pragma once

#include <string_view>

namespace tritium {

// Billions of multiply-accumulates a second that n_threads reach together with an instruction set's own product of int8 on registers
// alone: the best of several passes. Throws std::invalid_argument for a set that does not run here.
double int8_peak(std::string_view isa, int n_threads);

}  // namespace tritium
