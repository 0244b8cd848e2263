#include "bandwidth.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "platform.h"
#include "thread_pool.h"

namespace tritium {

namespace {

constexpr int kPasses = 7;

// 16 bytes are a register of every architecture's minimum; wider vectors would be kept in memory.
typedef uint64_t Word __attribute__((vector_size(16)));

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

}  // namespace

double read_bandwidth(int n_threads, uint64_t nbytes) {
  ThreadPool pool(n_threads);
  const uint64_t n_lines = nbytes / 64;
  if (n_lines < 2 * static_cast<uint64_t>(n_threads)) throw std::invalid_argument("nbytes: expected 128 or more a thread");
  const Pages memory(nbytes, PageSize::huge);
  const int64_t n = static_cast<int64_t>(n_lines);
  const Division division{n, n / n_threads / 16 + 1, 1, true};
  pool.run(division, [&](int worker, int64_t begin, int64_t end) {
    std::memset(memory.data() + 64 * begin, worker + 1, static_cast<size_t>(64 * (end - begin)));
  });
  std::atomic<uint64_t> sum{0};  // of everything read, so that the reads are not dead
  std::array<uint64_t, kPasses> elapsed_ns;
  for (uint64_t& elapsed : elapsed_ns) {
    const uint64_t start = now_ns();
    pool.run(division, [&](int, int64_t begin, int64_t end) {
      sum.fetch_xor(read_lines(memory.data() + 64 * begin, static_cast<uint64_t>(end - begin)), std::memory_order_relaxed);
    });
    elapsed = std::max<uint64_t>(now_ns() - start, 1);
  }
  std::nth_element(elapsed_ns.begin(), elapsed_ns.begin() + kPasses / 2, elapsed_ns.end());
  return static_cast<double>(64 * n_lines) / static_cast<double>(elapsed_ns[kPasses / 2]);
}

}  // namespace tritium
