#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "platform.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace tritium {

namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;

#if defined(MAP_NORESERVE)
constexpr int kMapFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#else
constexpr int kMapFlags = MAP_PRIVATE | MAP_ANONYMOUS;
#endif

thread_local sigjmp_buf way_back;
thread_local volatile sig_atomic_t guarded = 0;

void on_illegal_instruction(int signal) {
  if (guarded != 0) siglongjmp(way_back, 1);
  // Not ours: die as if nobody had listened.
  ::signal(signal, SIG_DFL);
  raise(signal);
}

bool returns(const std::function<void()>& work) {
  if (sigsetjmp(way_back, 1) != 0) {
    guarded = 0;
    return false;
  }
  guarded = 1;
  work();
  guarded = 0;
  return true;
}

class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &saved_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t saved_;
};

}  // namespace

// Threads inherit the mask of the one that starts them.
void without_signals(const std::function<void()>& start) {
  const SignalsBlocked blocked;
  start();
}

bool survives(const std::function<void()>& work) {
  struct sigaction action {};
  struct sigaction saved;
  action.sa_handler = on_illegal_instruction;
  sigemptyset(&action.sa_mask);
  sigaction(SIGILL, &action, &saved);
  const bool survived = returns(work);
  sigaction(SIGILL, &saved, nullptr);
  return survived;
}

// Asked for with every step: a system call would find the kernel's code and tables driven out of the caches by the weights.
int64_t process_id() {
  static std::atomic<int64_t> id{0};
  static const int failed = [] {
    id = getpid();
    return pthread_atfork(nullptr, nullptr, [] { id = getpid(); });
  }();
  return failed == 0 ? id.load(std::memory_order_relaxed) : getpid();
}

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

uint64_t system::page_bytes() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

uint8_t* system::take_pages(uint64_t nbytes, bool large) {
  large = large && nbytes >= kHugePage;
  const uint64_t reserved = large ? nbytes + kHugePage : nbytes;
  void* mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, kMapFlags, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  uint8_t* begin = static_cast<uint8_t*>(mapped);
  if (large) {
    const uint64_t skip = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
    if (skip > 0) munmap(begin, skip);
    if (kHugePage - skip > 0) munmap(begin + skip + nbytes, kHugePage - skip);
    begin += skip;
#if defined(MADV_HUGEPAGE)
    madvise(begin, nbytes, MADV_HUGEPAGE);
#endif
  }
  return begin;
}

void system::give_pages_back(uint8_t* pages, uint64_t nbytes) { munmap(pages, nbytes); }

}  // namespace tritium
