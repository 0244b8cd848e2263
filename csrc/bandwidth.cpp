#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "platform.h"
#include "thread_pool.h"

namespace tritium {

namespace {

constexpr int kPasses = 7;

// 16 bytes are a register of every architecture's minimum; wider vectors would be kept in memory.
typedef uint64_t Word __attribute__((vector_size(16)));

struct Sweep {
  Pages memory;
  ThreadPool* pool;
  std::vector<uint64_t> elapsed_ns;  // of each pass
  std::atomic<uint64_t> sum{0};      // of everything read, so that the reads are not dead
};

uint64_t read_lines(const uint8_t* p, uint64_t n_lines) {
  Word a{}, b{}, c{}, d{};
  for (const uint8_t* end = p + 64 * n_lines; p < end; p += 64) {
    const Word* line = reinterpret_cast<const Word*>(p);
    a ^= line[0];
    b ^= line[1];
    c ^= line[2];
    d ^= line[3];
  }
  const Word sum = (a ^ b) ^ (c ^ d);
  return sum[0] ^ sum[1];
}

void sweep(void* context, int worker) {
  Sweep& s = *static_cast<Sweep*>(context);
  const uint64_t lines = s.memory.size() / 64, n = static_cast<uint64_t>(s.pool->size()), w = static_cast<uint64_t>(worker);
  const uint64_t begin = lines * w / n, end = lines * (w + 1) / n;
  uint8_t* mine = s.memory.data() + 64 * begin;
  std::memset(mine, worker + 1, 64 * (end - begin));
  for (int pass = 0; pass < kPasses; ++pass) {
    s.pool->barrier(worker, [] {});
    const uint64_t start = now_ns();
    s.sum.fetch_xor(read_lines(mine, end - begin), std::memory_order_relaxed);
    s.pool->barrier(worker, [] {});
    if (worker == 0) s.elapsed_ns.push_back(now_ns() - start);
  }
}

}  // namespace

double read_bandwidth(int n_threads, uint64_t nbytes) {
  ThreadPool pool(n_threads);
  if (nbytes < 64 * 2 * static_cast<uint64_t>(n_threads)) throw std::invalid_argument("nbytes: expected 128 or more a thread");
  Sweep s{Pages(nbytes), &pool, {}, {}};
  s.elapsed_ns.reserve(kPasses);
  pool.run(sweep, &s);
  std::nth_element(s.elapsed_ns.begin(), s.elapsed_ns.begin() + kPasses / 2, s.elapsed_ns.end());
  return static_cast<double>(nbytes) / static_cast<double>(std::max<uint64_t>(s.elapsed_ns[kPasses / 2], 1));
}

}  // namespace tritium
