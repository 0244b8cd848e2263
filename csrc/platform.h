// What the core needs of the operating system and the processor beside the C++ library: platform.cpp, and for the system
// platform_posix.cpp or platform_windows.cpp. What the processor can is in isa.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace tritium {

constexpr size_t kAlignment = 64;  // of every buffer that a kernel sees: a cache line, a 512-bit register

// Huge pages suit what is read or written from end to end; of what is filled bit by bit, like the cache, they would take too much.
enum class PageSize { standard, huge };

// Zeroed memory straight from the system: pages are taken when they are first touched. Throws std::bad_alloc.
class Pages {
 public:
  Pages() = default;
  explicit Pages(uint64_t nbytes, PageSize page_size = PageSize::standard);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// Sets the arithmetic that numerics.py assumes (round to nearest, subnormals kept, exceptions masked) and restores the
// caller's on exit: other libraries of a process set flush-to-zero at will.
class FloatEnvironment {
 public:
  FloatEnvironment();
  ~FloatEnvironment();
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  uint64_t saved_;
};

// The threads that start starts run no signal handler of the process. What it throws passes through.
void without_signals(const std::function<void()>& start);

// False if the processor refused an instruction of work. Nothing inside it may have a destructor to run.
bool survives(const std::function<void()>& work);

int64_t process_id();
int available_cpus();  // that this process may run on
uint64_t now_ns();     // steady

namespace system {

uint64_t page_bytes();
// Zeroed pages, of the larger kind if the system gives them at will. Null if there are none.
uint8_t* take_pages(uint64_t nbytes, bool large);
void give_pages_back(uint8_t* pages, uint64_t nbytes);

}  // namespace system

inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace tritium
