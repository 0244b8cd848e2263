#include "platform.h"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <new>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TRITIUM_WATCHES_MEMORY 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TRITIUM_WATCHES_MEMORY 1
#endif
#if defined(TRITIUM_WATCHES_MEMORY)
#include <sanitizer/asan_interface.h>
#endif

namespace tritium {

namespace {

// The address sanitizer knows the ends of what malloc gives; here it is told. In other builds the strip behind a region is empty.
#if defined(TRITIUM_WATCHES_MEMORY)
constexpr uint64_t kStrip = 64;
void forbid(uint8_t* begin, uint64_t n) { __asan_poison_memory_region(begin, n); }
void allow(uint8_t* begin, uint64_t n) { __asan_unpoison_memory_region(begin, n); }
#else
constexpr uint64_t kStrip = 0;
void forbid(uint8_t*, uint64_t) {}
void allow(uint8_t*, uint64_t) {}
#endif

constexpr uint64_t kHugePage = uint64_t{2} << 20;

#if defined(MAP_NORESERVE)
constexpr int kMapFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#else
constexpr int kMapFlags = MAP_PRIVATE | MAP_ANONYMOUS;
#endif

// The page size of every supported system divides this, so ends cut at its multiples can be unmapped.
uint64_t round_up_page(uint64_t n) {
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return (n + page - 1) / page * page;
}

}  // namespace

Pages::Pages(uint64_t nbytes, PageSize page_size) {
  if (nbytes == 0) return;
  if (nbytes > (uint64_t{1} << 46)) throw std::bad_alloc();
  const uint64_t size = round_up_page(nbytes + kStrip);
  const bool large = page_size == PageSize::huge && size >= kHugePage;
  const uint64_t reserved = large ? size + kHugePage : size;
  void* mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, kMapFlags, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  uint8_t* begin = static_cast<uint8_t*>(mapped);
  if (large) {
    const uint64_t skip = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
    if (skip > 0) munmap(begin, skip);
    if (kHugePage - skip > 0) munmap(begin + skip + size, kHugePage - skip);
    begin += skip;
#if defined(MADV_HUGEPAGE)
    madvise(begin, size, MADV_HUGEPAGE);
#endif
  }
  forbid(begin + nbytes, size - nbytes);
  data_ = begin;
  size_ = nbytes;
}

Pages::~Pages() {
  if (data_ == nullptr) return;
  const uint64_t size = round_up_page(size_ + kStrip);
  allow(data_ + size_, size - size_);
  munmap(data_, size);
}

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

#if defined(__x86_64__)

FloatEnvironment::FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
FloatEnvironment::~FloatEnvironment() { _mm_setcsr(static_cast<unsigned>(saved_)); }

#elif defined(__aarch64__)

FloatEnvironment::FloatEnvironment() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
}
FloatEnvironment::~FloatEnvironment() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

#else
#error "FloatEnvironment: say how this architecture sets rounding and subnormals"
#endif

int64_t process_id() { return getpid(); }

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

uint64_t now_ns() {
  using std::chrono::duration_cast, std::chrono::nanoseconds, std::chrono::steady_clock;
  return static_cast<uint64_t>(duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count());
}

}  // namespace tritium
