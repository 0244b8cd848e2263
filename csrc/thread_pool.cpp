#include "thread_pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace tritium {

namespace {

// How long a thread looks for what it waits for before it sleeps: about what it may cost to be woken. On virtual machines Linux was seen
// to leave a woken thread waiting for milliseconds for the core of the one that woke it, while another core idled.
constexpr uint64_t kAwakeNs = 2'000'000;
// How long of that it keeps its core to itself. After that it offers it to others between looks: those may be what it waits for.
constexpr uint64_t kSpinNs = 30'000;

template <class Ready>
void wait(const std::atomic<uint32_t>& word, Ready ready) {
  constexpr int kLooks = 32;  // between two readings of the clock
  const uint64_t start = now_ns();
  for (uint64_t waited = 0; waited < kAwakeNs; waited = now_ns() - start) {
    if (waited > kSpinNs) std::this_thread::yield();
    for (int i = 0; i < kLooks; ++i) {
      if (ready(word.load(std::memory_order_acquire))) return;
      cpu_relax();
    }
  }
  for (uint32_t value; !ready(value = word.load(std::memory_order_acquire));) word.wait(value, std::memory_order_acquire);
}

// Shares that a thread looks at for work: looking at all would cost a large machine more than it gains. The caller sees them all.
constexpr int kNeighbors = 8;

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
      workers_(static_cast<size_t>(n_threads)),
      threads_(new std::vector<std::thread>) {
  try {
    threads_->reserve(static_cast<size_t>(n_threads - 1));
    without_signals([&] {
      for (int worker = 1; worker < n_threads; ++worker) threads_->emplace_back(&ThreadPool::serve, this, worker);
    });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (usable()) stop();
}

void ThreadPool::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  loops_.fetch_add(1, std::memory_order_release);
  loops_.notify_all();
  for (std::thread& thread : *threads_) thread.join();
  delete threads_;
}

void ThreadPool::run_loop(const Loop& loop) {
  if (n_threads_ == 1 || loop.division.n <= loop.division.chunk) {
    if (loop.division.n > 0) loop.body(loop.context, 0, 0, loop.division.n);
    return;
  }
  // Nobody is inside, so nobody reads what is written here.
  loop_ = loop;
  for (Worker& w : workers_) w.taken.store(0, std::memory_order_relaxed);
  inside_.store(0, std::memory_order_release);
  loops_.fetch_add(1, std::memory_order_release);
  loops_.notify_all();
  work(0, n_threads_);
  // Everything is taken; what is not done is in the hands of those inside.
  if (inside_.fetch_or(kClosed, std::memory_order_acq_rel) != 0) {
    wait(inside_, [](uint32_t inside) { return inside == kClosed; });
  }
}

void ThreadPool::serve(int worker) {
  const FloatEnvironment environment;
  uint32_t seen = 0;
  for (;;) {
    wait(loops_, [&](uint32_t loops) { return loops != seen; });
    seen = loops_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (!enter()) continue;
    work(worker, kNeighbors);
    leave();
  }
}

bool ThreadPool::enter() {
  uint32_t inside = inside_.load(std::memory_order_relaxed);
  while ((inside & kClosed) == 0) {
    if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
  }
  return false;
}

void ThreadPool::leave() {
  if (inside_.fetch_sub(1, std::memory_order_acq_rel) == (kClosed | 1)) inside_.notify_one();
}

void ThreadPool::work(int worker, int n_shares_seen) {
  const Division& d = loop_.division;
  const int64_t n_shares = d.own_shares ? n_threads_ : 1;
  const int64_t groups = (d.n + d.align - 1) / d.align;
  const auto cut = [&](int64_t share) { return std::min(d.n, groups * share / n_shares * d.align); };
  for (int64_t i = 0; i < std::min<int64_t>(n_shares, n_shares_seen); ++i) {
    const int64_t share = (worker + i) % n_shares, first = cut(share), n = cut(share + 1) - first;
    std::atomic<int64_t>& taken = workers_[static_cast<size_t>(share)].taken;
    while (taken.load(std::memory_order_relaxed) < n) {
      const int64_t begin = taken.fetch_add(d.chunk, std::memory_order_relaxed);
      if (begin < n) loop_.body(loop_.context, worker, first + begin, first + std::min(begin + d.chunk, n));
    }
  }
}

}  // namespace tritium
