// The kernels that run here: compiled in, supported by the processor, and equal to the scalar ones in the self-test.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernel.h"

namespace tritium {

struct Isa {
  std::string name;
  std::string status;  // "ok", or why its kernels are not used
  std::vector<Kernel> kernels;

  bool usable() const { return status == "ok"; }
};

// All rows of isa.list, best first. The first call tests them, which takes a few milliseconds; safe from several threads.
const std::vector<Isa>& instruction_sets();

// The usable kernel with this id, or nullptr.
const Kernel* find_kernel(std::string_view id);

}  // namespace tritium
