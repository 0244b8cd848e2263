#include "sha256.h"

#include <algorithm>
#include <atomic>

namespace tritium {

namespace {

constexpr std::array<uint32_t, 8> kInitial = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

}  // namespace

Sha256::Sha256(const Sha256Way& way) : compress_(way.one), state_(kInitial) {}

void Sha256::compress(const uint8_t* blocks, size_t n) {
  uint32_t* const state = state_.data();
  compress_(&state, &blocks, n);
}

void Sha256::update(std::span<const uint8_t> data) {
  length_ += data.size();
  if (held_ > 0) {
    const size_t taken = std::min(data.size(), block_.size() - held_);
    std::copy_n(data.data(), taken, block_.data() + held_);
    held_ += taken;
    data = data.subspan(taken);
    if (held_ < block_.size()) return;
    compress(block_.data(), 1);
    held_ = 0;
  }
  if (data.size() >= 64) compress(data.data(), data.size() / 64);
  held_ = data.size() % 64;
  std::copy_n(data.data() + data.size() - held_, held_, block_.data());
}

void Sha256::finish(uint8_t* digest) {
  const uint64_t bits = length_ * 8;
  block_[held_++] = 0x80;
  if (held_ > 56) {
    std::fill(block_.begin() + static_cast<ptrdiff_t>(held_), block_.end(), uint8_t{0});
    compress(block_.data(), 1);
    held_ = 0;
  }
  std::fill(block_.begin() + static_cast<ptrdiff_t>(held_), block_.end(), uint8_t{0});
  for (size_t i = 0; i < 8; ++i) block_[56 + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  compress(block_.data(), 1);
  for (size_t i = 0; i < kDigestBytes; ++i) digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
}

// Strings side by side: those of one thread, which takes them from all that are left.
class Sha256Lanes {
 public:
  Sha256Lanes(std::span<const Sha256Job> jobs, std::atomic<size_t>& next, const Sha256Way& way) : jobs_(jobs), next_(next), way_(way) {}

  // Hashes strings that no other thread has taken until there are none.
  void run() {
    while (fill() > 0) {
      size_t n_blocks = SIZE_MAX;
      uint32_t* states[kMostLanes];
      const uint8_t* blocks[kMostLanes];
      for (int k = 0; k < n_; ++k) {
        states[k] = lanes_[k].hash.state_.data();
        blocks[k] = lanes_[k].left.data();
        n_blocks = std::min(n_blocks, lanes_[k].left.size() / 64);
      }
      // What lanes without a string come to is dropped.
      uint32_t dropped[kMostLanes][8];
      for (int k = n_; k < way_.n_lanes; ++k) states[k] = dropped[k], blocks[k] = blocks[0];
      std::fill_n(&dropped[0][0], kMostLanes * 8, 0);
      (n_ == 1 ? way_.one : way_.several)(states, blocks, n_blocks);
      for (int k = n_ - 1; k >= 0; --k) advance(k, 64 * n_blocks);
    }
  }

 private:
  struct Lane {
    Sha256 hash;
    std::span<const uint8_t> left;
    const Sha256Job* job;
  };

  int fill() {
    while (n_ < way_.n_lanes && next_.load(std::memory_order_relaxed) < jobs_.size()) {
      const size_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i < jobs_.size()) lanes_[n_++] = {Sha256(way_), jobs_[i].head, &jobs_[i]};
    }
    return n_;
  }

  void advance(int k, size_t n_bytes) {
    Lane& lane = lanes_[k];
    lane.hash.length_ += n_bytes;
    lane.left = lane.left.subspan(n_bytes);
    if (lane.left.size() >= 64) return;
    lane.hash.update(lane.left);
    lane.hash.update(lane.job->tail);
    lane.hash.finish(lane.job->digest);
    if (k != --n_) lane = lanes_[n_];
  }

  std::span<const Sha256Job> jobs_;
  std::atomic<size_t>& next_;
  const Sha256Way& way_;
  std::array<Lane, kMostLanes> lanes_;
  int n_ = 0;
};

void sha256_each(std::span<const Sha256Job> jobs, const Sha256Way& way) {
  std::atomic<size_t> next{0};
  Sha256Lanes(jobs, next, way).run();
}

void sha256_each(std::span<const Sha256Job> jobs, ThreadPool& pool, const Sha256Way& way) {
  std::atomic<size_t> next{0};
  pool.run({pool.size(), 1}, [&](int, int64_t, int64_t) { Sha256Lanes(jobs, next, way).run(); });
}

}  // namespace tritium
