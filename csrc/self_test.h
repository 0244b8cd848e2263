// Holds the kernels of an instruction set to the scalar ones before anything is computed with them: processors, hypervisors and
// emulators have claimed instructions that they do not have or get wrong.
#pragma once

#include <string>
#include <vector>

#include "kernel.h"

namespace tritium {

// "ok", "self-test failed" (a result that differs in a bit) or "illegal instruction".
std::string self_test(const std::vector<Kernel>& kernels, const std::vector<Kernel>& baseline);

}  // namespace tritium
