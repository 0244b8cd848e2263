#include "isa.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#endif

namespace tritium {

#if defined(__x86_64__)

namespace {

struct Features {
  uint32_t leaf1_ecx = 0;
  uint32_t leaf7_ebx = 0;
  uint32_t leaf7_ecx = 0;
  uint32_t leaf7_1_eax = 0;
  uint64_t saved_state = 0;  // XCR0: which registers the operating system saves
};

Features read_features() {
  Features f;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) f.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
    f.leaf7_ebx = ebx;
    f.leaf7_ecx = ecx;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) f.leaf7_1_eax = eax;
  }
  if (f.leaf1_ecx & bit_OSXSAVE) {
    asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    f.saved_state = (uint64_t{edx} << 32) | eax;
  }
  return f;
}

constexpr uint32_t kAvxVnni = 1U << 4;  // of leaf 7, subleaf 1, which headers name differently
constexpr uint64_t kYmmState = 0x06;
constexpr uint64_t kZmmState = 0xe6;

bool has_all(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

}  // namespace

bool cpu_has_avx2() {
  const Features f = read_features();
  return (f.saved_state & kYmmState) == kYmmState && has_all(f.leaf1_ecx, bit_AVX | bit_F16C) && has_all(f.leaf7_ebx, bit_AVX2);
}

bool cpu_has_avxvnni() { return cpu_has_avx2() && has_all(read_features().leaf7_1_eax, kAvxVnni); }

bool cpu_has_avx512vnni() {
  const Features f = read_features();
  return cpu_has_avx2() && (f.saved_state & kZmmState) == kZmmState &&
         has_all(f.leaf7_ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) &&
         has_all(f.leaf7_ecx, bit_AVX512VNNI);
}

bool cpu_has_sha256() {
  const Features f = read_features();
  return has_all(f.leaf1_ecx, bit_SSSE3 | bit_SSE4_1) && has_all(f.leaf7_ebx, bit_SHA);
}

#else

bool cpu_has_avx2() { return false; }
bool cpu_has_avx512vnni() { return false; }
bool cpu_has_avxvnni() { return false; }

#endif

#if defined(__aarch64__) && defined(__linux__)

namespace {

// Bits of the kernel's interface, which headers older than the feature do not name.
constexpr unsigned long kSha2 = 1UL << 6;            // HWCAP_SHA2
constexpr unsigned long kDotProduct = 1UL << 20;     // HWCAP_ASIMDDP
constexpr unsigned long kMatrixProduct = 1UL << 13;  // HWCAP2_I8MM

}  // namespace

bool cpu_has_neon_dot() { return (getauxval(AT_HWCAP) & kDotProduct) != 0; }
bool cpu_has_neon_i8mm() { return cpu_has_neon_dot() && (getauxval(AT_HWCAP2) & kMatrixProduct) != 0; }
bool cpu_has_neon() { return true; }
bool cpu_has_sha256() { return (getauxval(AT_HWCAP) & kSha2) != 0; }

#elif defined(__aarch64__) && defined(__APPLE__)

namespace {

bool feature(const char* name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

}  // namespace

bool cpu_has_neon_dot() { return feature("hw.optional.arm.FEAT_DotProd"); }
bool cpu_has_neon_i8mm() { return cpu_has_neon_dot() && feature("hw.optional.arm.FEAT_I8MM"); }
bool cpu_has_neon() { return true; }
bool cpu_has_sha256() { return feature("hw.optional.arm.FEAT_SHA256"); }

#elif defined(__aarch64__) && defined(_WIN32)

namespace {

// Of winnt.h, which may be older than the feature.
constexpr DWORD kCrypto = 30;         // PF_ARM_V8_CRYPTO_INSTRUCTIONS_AVAILABLE
constexpr DWORD kDotProduct = 43;     // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
constexpr DWORD kMatrixProduct = 66;  // PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE

}  // namespace

bool cpu_has_neon_dot() { return IsProcessorFeaturePresent(kDotProduct) != 0; }
bool cpu_has_neon_i8mm() { return cpu_has_neon_dot() && IsProcessorFeaturePresent(kMatrixProduct) != 0; }
bool cpu_has_neon() { return true; }
bool cpu_has_sha256() { return IsProcessorFeaturePresent(kCrypto) != 0; }

#else

bool cpu_has_neon_dot() { return false; }
bool cpu_has_neon_i8mm() { return false; }
bool cpu_has_neon() { return false; }

#endif

bool cpu_has_baseline() { return true; }

}  // namespace tritium
