// Names and table of a kernel unit. Everything but the table is internal to the unit, so that no function compiled for one
// instruction set can be merged into another.
#pragma once

#include "kernel.h"

#define TRITIUM_PASTE_2(a, b) a##_##b
#define TRITIUM_PASTE(a, b) TRITIUM_PASTE_2(a, b)

// KERNEL_FUNCTION(x) is the head of the function that csrc/kernels.inc calls x_<isa>.
#define KERNEL_FUNCTION(name) \
  [[maybe_unused]] void TRITIUM_PASTE(name, TRITIUM_ISA)(const Call& call, int64_t begin, int64_t end, Work& work)

// A unit says TRITIUM_ROW_<isa> = 1 for the rows that are its own.
#define TRITIUM_ROWS(isa) TRITIUM_ROW_##isa
