#include "platform.h"

#include <chrono>
#include <new>
#include <utility>

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

// The page size of every supported system divides this, so what was taken can be given back by it.
uint64_t round_up_page(uint64_t n) {
  const uint64_t page = system::page_bytes();
  return (n + page - 1) / page * page;
}

}  // namespace

Pages::Pages(uint64_t nbytes, PageSize page_size) {
  if (nbytes == 0) return;
  if (nbytes > (uint64_t{1} << 46)) throw std::bad_alloc();
  const uint64_t size = round_up_page(nbytes + kStrip);
  uint8_t* begin = system::take_pages(size, page_size == PageSize::huge);
  if (begin == nullptr) throw std::bad_alloc();
  forbid(begin + nbytes, size - nbytes);
  data_ = begin;
  size_ = nbytes;
}

Pages::~Pages() {
  if (data_ == nullptr) return;
  const uint64_t size = round_up_page(size_ + kStrip);
  allow(data_ + size_, size - size_);
  system::give_pages_back(data_, size);
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

uint64_t now_ns() {
  using std::chrono::duration_cast, std::chrono::nanoseconds, std::chrono::steady_clock;
  return static_cast<uint64_t>(duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count());
}

}  // namespace tritium
