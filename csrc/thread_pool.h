// Persistent threads that share the iterations of a loop. The caller takes part as worker 0 and waits for no thread that has not
// begun: on a crowded machine it does the work of those that get no core.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "platform.h"

namespace tritium {

// How the iterations 0 … n go to the workers: in chunks, from as many contiguous shares, cut at multiples of `align`, as there are
// workers, each worker its own first, or from a single one. Own shares keep a worker's reads one stream; a single one suits
// iterations of unequal cost.
struct Division {
  int64_t n;
  int64_t chunk;
  int64_t align = 1;
  bool own_shares = false;
};

class ThreadPool {
 public:
  static constexpr int kMaxThreads = 1024;

  // Throws std::system_error when the system refuses a thread.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  // Loops so far that had something for more than one thread: each costs a wake-up and a wait.
  uint32_t n_shared() const { return loops_.load(std::memory_order_relaxed); }

  // False in a child process: threads do not survive fork, so the child drops this pool and makes its own.
  bool usable() const { return process_ == process_id(); }

  // Calls body(worker, begin, end) on ranges that make up 0 … n, and returns when all have returned. One caller at a time. The body
  // must not throw.
  template <class Body>
  void run(const Division& division, Body&& body) {
    const auto call = [](void* context, int worker, int64_t begin, int64_t end) {
      (*static_cast<std::remove_reference_t<Body>*>(context))(worker, begin, end);
    };
    run_loop({division, call, &body});
  }

 private:
  struct Loop {
    Division division;
    void (*body)(void* context, int worker, int64_t begin, int64_t end);
    void* context;
  };
  struct alignas(kAlignment) Worker {
    std::atomic<int64_t> taken{0};  // of its share, by itself and others
  };

  static constexpr uint32_t kClosed = uint32_t{1} << 31;

  void run_loop(const Loop& loop);
  void serve(int worker);
  void work(int worker, int n_shares_seen);
  bool enter();
  void leave();
  void stop();

  const int n_threads_;
  const int64_t process_;
  Loop loop_{};
  std::vector<Worker> workers_;
  std::vector<std::thread>* threads_;  // leaked in a child process, where joining them would hang
  std::atomic<bool> stopping_{false};
  alignas(kAlignment) std::atomic<uint32_t> loops_{0};         // begun so far
  alignas(kAlignment) std::atomic<uint32_t> inside_{kClosed};  // threads that read loop_; with kClosed set no more may enter
};

}  // namespace tritium
