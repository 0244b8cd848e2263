// The measured limits of kernels that compute more than they read.
#pragma once

#include <string_view>

namespace tritium {

// Billions of multiply-accumulates a second that n_threads reach together with an instruction set's own product of int8 on registers
// alone: the best of several passes. Throws std::invalid_argument for a set that does not run here.
double int8_peak(std::string_view isa, int n_threads);

// The same with its products of float32, each rounded before it is added: the numeric profile knows no fused operation.
double f32_peak(std::string_view isa, int n_threads);

}  // namespace tritium
