// The unit's only symbol: its rows of csrc/kernels.inc. Included last.
#pragma once

#include "generic/kernel_names.h"

namespace tritium {
namespace {

#ifdef TRITIUM_FORMS_TABLES
constexpr bool forms_tables(KernelFn f) { return f == TRITIUM_PASTE(i2s_gemm, TRITIUM_ISA) || f == TRITIUM_PASTE(tq1_gemm, TRITIUM_ISA); }
#else
constexpr bool forms_tables(KernelFn) { return false; }
#endif

#define KERNEL(id, op, layout, isa, t_min, t_max, kind) {#id, #op, #layout, #isa, t_min, t_max, id, forms_tables(id)},
constexpr Kernel kRows[] = {
#include "kernels.inc"
};
#undef KERNEL

}  // namespace

extern "C" const Kernel* TRITIUM_PASTE(tritium_kernels, TRITIUM_ISA)(int64_t* n) {
  *n = sizeof(kRows) / sizeof(kRows[0]);
  return kRows;
}

}  // namespace tritium
