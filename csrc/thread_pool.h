// Persistent threads that run one function together. The caller is worker 0, so a pool of one has no threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "platform.h"

namespace tritium {

class ThreadPool {
 public:
  static constexpr int kMaxThreads = 1024;

  // Throws std::system_error when the system refuses a thread.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  // False in a child process: threads do not survive fork, so the child drops this pool and makes its own.
  bool usable() const { return process_ == process_id(); }

  // Calls function(context, worker) on every worker and returns when all have. One caller at a time. The function must not throw.
  void run(void (*function)(void*, int), void* context);

  // Called by every worker inside run: returns when all have arrived. The last one calls on_last() before it releases the others.
  template <class F>
  void barrier(int worker, F on_last) {
    if (n_threads_ == 1) {
      on_last();
      return;
    }
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == n_threads_ - 1) {
      on_last();
      arrived_.store(0, std::memory_order_relaxed);
      phase_.fetch_add(1, std::memory_order_release);
      phase_.notify_all();
      return;
    }
    wait(phase_, phase, waiters_[static_cast<size_t>(worker)]);
  }

 private:
  struct alignas(kAlignment) Waiter {
    uint64_t spin_ns = 0;
  };

  void serve(int worker);
  void finish() {
    stopping_ = true;
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& thread : *threads_) thread.join();
  }
  void wait(const std::atomic<uint32_t>& word, uint32_t old, Waiter& waiter) const;

  const int n_threads_;
  const int64_t process_;
  uint64_t longest_spin_ns_;
  void (*function_)(void*, int) = nullptr;
  void* context_ = nullptr;
  bool stopping_ = false;
  std::vector<Waiter> waiters_;
  std::vector<std::thread>* threads_;  // leaked in a child process, where joining them would hang
  alignas(kAlignment) std::atomic<uint32_t> epoch_{0};
  alignas(kAlignment) std::atomic<uint32_t> phase_{0};
  alignas(kAlignment) std::atomic<int> arrived_{0};
};

}  // namespace tritium
