#include "peak.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "platform.h"
#include "registry.h"
#include "thread_pool.h"

namespace tritium {

namespace {

constexpr int kPasses = 15;
constexpr int64_t kShares = 8;          // of a worker's rounds, so that a thread that got no core is stood in for
constexpr int64_t kShareRounds = 200'000;
constexpr int kChains = 12;             // sums in flight: more than latency × instructions a cycle

// ONE(s) is a product of operands 12 and 13, added to register s. In assembly, because a compiler may merge, drop or
// spill sums; each function is compiled for the instructions that it names, and called only where they run.
#define TRITIUM_CHAINS(ONE) \
  ONE("%0") ONE("%1") ONE("%2") ONE("%3") ONE("%4") ONE("%5") ONE("%6") ONE("%7") ONE("%8") ONE("%9") ONE("%10") ONE("%11")
#define TRITIUM_PEAK(name, features, bytes, constraint, temporary, ONE)                                                          \
  __attribute__((target(features))) void name(int64_t n_rounds) {                                                                \
    using Register = int32_t __attribute__((vector_size(bytes)));                                                                \
    Register a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{}, i{}, j{}, k{}, l{};                                                         \
    const Register x{}, y{};                                                                                                     \
    for (; n_rounds > 0; --n_rounds) {                                                                                           \
      asm volatile(TRITIUM_CHAINS(ONE)                                                                                           \
                   : "+" constraint(a), "+" constraint(b), "+" constraint(c), "+" constraint(d), "+" constraint(e),             \
                     "+" constraint(f), "+" constraint(g), "+" constraint(h), "+" constraint(i), "+" constraint(j),             \
                     "+" constraint(k), "+" constraint(l)                                                                       \
                   : constraint(x), constraint(y)                                                                               \
                   : temporary);                                                                                                 \
    }                                                                                                                            \
  }

struct Peak {
  std::string_view isa;
  int int8_macs;  // of one instruction, or of the pair that makes a product and its sum
  void (*int8)(int64_t n_rounds);
  int f32_macs;
  void (*f32)(int64_t n_rounds);
};

#if defined(__x86_64__)
#define TRITIUM_ONE(s) "vpdpbusd %13, %12, " s "\n\t"
TRITIUM_PEAK(peak_avx512vnni, "avx512f,avx512vnni", 64, "v", "cc", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "%{vex%} vpdpbusd %13, %12, " s "\n\t"
TRITIUM_PEAK(peak_avxvnni, "avx2,avxvnni", 32, "x", "cc", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "vpmaddubsw %13, %12, %%ymm15\n\tvpaddw %%ymm15, " s ", " s "\n\t"
TRITIUM_PEAK(peak_avx2, "avx2", 32, "x", "xmm15", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "movdqa %12, %%xmm15\n\tpmullw %13, %%xmm15\n\tpaddw %%xmm15, " s "\n\t"
TRITIUM_PEAK(peak_scalar, "sse2", 16, "x", "xmm15", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "vmulps %13, %12, %%zmm31\n\tvaddps %%zmm31, " s ", " s "\n\t"
TRITIUM_PEAK(peak_f32_avx512, "avx512f", 64, "v", "xmm31", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "vmulps %13, %12, %%ymm15\n\tvaddps %%ymm15, " s ", " s "\n\t"
TRITIUM_PEAK(peak_f32_avx, "avx", 32, "x", "xmm15", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "movaps %12, %%xmm15\n\tmulps %13, %%xmm15\n\taddps %%xmm15, " s "\n\t"
TRITIUM_PEAK(peak_f32_sse, "sse2", 16, "x", "xmm15", TRITIUM_ONE)
#undef TRITIUM_ONE
constexpr Peak kPeaks[] = {{"avx512vnni", 64, peak_avx512vnni, 16, peak_f32_avx512},
                           {"avxvnni", 32, peak_avxvnni, 8, peak_f32_avx},
                           {"avx2", 32, peak_avx2, 8, peak_f32_avx},
                           {"scalar", 8, peak_scalar, 4, peak_f32_sse}};
#elif defined(__aarch64__)
#define TRITIUM_ONE(s) "smmla " s ".4s, %12.16b, %13.16b\n\t"
TRITIUM_PEAK(peak_neoni8mm, "arch=armv8.2-a+dotprod+i8mm", 16, "w", "cc", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "sdot " s ".4s, %12.16b, %13.16b\n\t"
TRITIUM_PEAK(peak_neondot, "arch=armv8.2-a+dotprod", 16, "w", "cc", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "smlal " s ".8h, %12.8b, %13.8b\n\t"
TRITIUM_PEAK(peak_neon, "arch=armv8-a", 16, "w", "cc", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "mla " s ".8h, %12.8h, %13.8h\n\t"
TRITIUM_PEAK(peak_scalar, "arch=armv8-a", 16, "w", "cc", TRITIUM_ONE)
#undef TRITIUM_ONE
#define TRITIUM_ONE(s) "fmul v31.4s, %12.4s, %13.4s\n\tfadd " s ".4s, " s ".4s, v31.4s\n\t"
TRITIUM_PEAK(peak_f32, "arch=armv8-a", 16, "w", "v31", TRITIUM_ONE)
#undef TRITIUM_ONE
constexpr Peak kPeaks[] = {{"neoni8mm", 32, peak_neoni8mm, 4, peak_f32},
                           {"neondot", 16, peak_neondot, 4, peak_f32},
                           {"neon", 8, peak_neon, 4, peak_f32},
                           {"scalar", 8, peak_scalar, 4, peak_f32}};
#endif

const Peak& find_peak(std::string_view name) {
  for (const Isa& isa : instruction_sets()) {
    if (isa.name != name || !isa.usable()) continue;
    for (const Peak& peak : kPeaks) {
      if (peak.isa == name) return peak;
    }
  }
  throw std::invalid_argument("isa: expected one that runs here, got " + std::string(name));
}

double reach(int macs, void (*run)(int64_t), int n_threads) {
  ThreadPool pool(n_threads);
  const Division division{kShares * n_threads, 1, 1, true};
  uint64_t best = UINT64_MAX;
  for (int pass = 0; pass < kPasses; ++pass) {
    const uint64_t start = now_ns();
    pool.run(division, [&](int, int64_t begin, int64_t end) { run(kShareRounds * (end - begin)); });
    best = std::min(best, std::max<uint64_t>(now_ns() - start, 1));
  }
  const int64_t products = kShares * n_threads * kShareRounds * kChains;
  return static_cast<double>(products) * macs / static_cast<double>(best);
}

}  // namespace

double int8_peak(std::string_view isa, int n_threads) {
  const Peak& peak = find_peak(isa);
  return reach(peak.int8_macs, peak.int8, n_threads);
}

double f32_peak(std::string_view isa, int n_threads) {
  const Peak& peak = find_peak(isa);
  return reach(peak.f32_macs, peak.f32, n_threads);
}

}  // namespace tritium
