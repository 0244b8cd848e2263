#include "registry.h"

#include "isa.h"
#include "self_test.h"

// Only the tables that the build compiles may be named: those of this architecture.
#define TRITIUM_TABLE_any(name) tritium_kernels_##name
#if defined(__x86_64__)
#define TRITIUM_TABLE_x86_64(name) tritium_kernels_##name
#else
#define TRITIUM_TABLE_x86_64(name) nullptr
#endif
#if defined(__aarch64__)
#define TRITIUM_TABLE_aarch64(name) tritium_kernels_##name
#else
#define TRITIUM_TABLE_aarch64(name) nullptr
#endif

#define ISA(name, architecture, flags, probe) extern "C" const tritium::Kernel* tritium_kernels_##name(int64_t* n);
#include "isa.list"
#undef ISA

namespace tritium {

namespace {

struct Row {
  const char* name;
  KernelTable table;
  bool (*probe)();
};

constexpr Row kRows[] = {
#define ISA(name, architecture, flags, probe) {#name, TRITIUM_TABLE_##architecture(name), probe},
#include "isa.list"
#undef ISA
};

std::vector<Isa> find_instruction_sets() {
  std::vector<Isa> all;
  for (const Row& row : kRows) {
    Isa isa{row.name, "ok", {}};
    if (row.table == nullptr) {
      isa.status = "not compiled";
    } else if (!row.probe()) {
      isa.status = "cpu lacks it";
    } else {
      int64_t n = 0;
      const Kernel* kernels = row.table(&n);
      isa.kernels.assign(kernels, kernels + n);
    }
    all.push_back(std::move(isa));
  }
  // The last row runs everywhere, and the others are held to it.
  const std::vector<Kernel>& baseline = all.back().kernels;
  for (Isa& isa : all) {
    if (isa.usable() && &isa != &all.back()) isa.status = self_test(isa.kernels, baseline);
  }
  return all;
}

}  // namespace

const std::vector<Isa>& instruction_sets() {
  static const std::vector<Isa> all = find_instruction_sets();
  return all;
}

const Kernel* find_kernel(std::string_view id) {
  for (const Isa& isa : instruction_sets()) {
    if (!isa.usable()) continue;
    for (const Kernel& kernel : isa.kernels) {
      if (id == kernel.id) return &kernel;
    }
  }
  return nullptr;
}

}  // namespace tritium
