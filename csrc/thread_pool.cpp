#include "thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace tritium {

namespace {

// About what it costs to sleep and be woken: spinning that long, then sleeping, is at most twice as slow as knowing beforehand.
constexpr uint64_t kLongestSpinNs = 30'000;
constexpr uint64_t kShortestSpinNs = 1'000;

// The threads inherit the mask: a signal handler of the process must not run on a worker.
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

int checked_size(int n_threads) {
  if (n_threads < 1 || n_threads > ThreadPool::kMaxThreads) {
    throw std::invalid_argument("n_threads: expected 1 to " + std::to_string(ThreadPool::kMaxThreads) + ", got " +
                                std::to_string(n_threads));
  }
  return n_threads;
}

}  // namespace

ThreadPool::ThreadPool(int n_threads)
    : n_threads_(checked_size(n_threads)),
      process_(process_id()),
      // With more workers than cores a spinning one keeps another from running.
      longest_spin_ns_(n_threads <= available_cpus() ? kLongestSpinNs : kShortestSpinNs),
      waiters_(static_cast<size_t>(n_threads), Waiter{longest_spin_ns_}),
      threads_(new std::vector<std::thread>) {
  const SignalsBlocked blocked;
  try {
    threads_->reserve(static_cast<size_t>(n_threads - 1));
    for (int worker = 1; worker < n_threads; ++worker) threads_->emplace_back(&ThreadPool::serve, this, worker);
  } catch (...) {
    finish();
    delete threads_;
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (!usable()) return;
  finish();
  delete threads_;
}

void ThreadPool::run(void (*function)(void*, int), void* context) {
  function_ = function;
  context_ = context;
  if (n_threads_ > 1) {
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
  }
  function(context, 0);
  barrier(0, [] {});
}

void ThreadPool::serve(int worker) {
  uint32_t epoch = 0;
  for (;;) {
    wait(epoch_, epoch, waiters_[static_cast<size_t>(worker)]);
    ++epoch;
    if (stopping_) return;
    function_(context_, worker);
    barrier(worker, [] {});
  }
}

// Spins for a while, then sleeps. The while is the longest after spinning has paid and halves each time that it has not: where the
// others have cores of their own they come soon, where they wait for this one they only come when it is given up.
void ThreadPool::wait(const std::atomic<uint32_t>& word, uint32_t old, Waiter& waiter) const {
  constexpr int kLooks = 32;  // between two readings of the clock
  const auto changed = [&] {
    for (int i = 0; i < kLooks; ++i) {
      if (word.load(std::memory_order_acquire) != old) return true;
      cpu_relax();
    }
    return false;
  };
  const uint64_t start = now_ns();
  do {
    if (changed()) {
      waiter.spin_ns = longest_spin_ns_;
      return;
    }
  } while (now_ns() - start < waiter.spin_ns);
  waiter.spin_ns = std::max(waiter.spin_ns / 2, kShortestSpinNs);
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

}  // namespace tritium
