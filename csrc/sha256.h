// SHA-256 (FIPS 180-4), by the processor's instructions where it has them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "sha256_ways.h"
#include "thread_pool.h"

namespace tritium {

constexpr size_t kDigestBytes = 32;

class Sha256 {
 public:
  explicit Sha256(const Sha256Way& way = fastest_sha256());
  void update(std::span<const uint8_t> data);
  // Ends it: `digest` takes 32 bytes.
  void finish(uint8_t* digest);

 private:
  friend class Sha256Lanes;

  void compress(const uint8_t* blocks, size_t n);

  Compress compress_;
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> block_;
  size_t held_ = 0;  // bytes of block_
  uint64_t length_ = 0;
};

// A string of bytes, in two pieces, and where the 32 bytes of its digest go.
struct Sha256Job {
  std::span<const uint8_t> head;
  std::span<const uint8_t> tail;
  uint8_t* digest;
};

// The digest of each of several strings, a few side by side: one string keeps a core's instructions for it waiting. Strings of like
// lengths, or the longest first, share best.
void sha256_each(std::span<const Sha256Job> jobs, const Sha256Way& way = fastest_sha256());
void sha256_each(std::span<const Sha256Job> jobs, ThreadPool& pool, const Sha256Way& way = fastest_sha256());

}  // namespace tritium
