// SHA-256 (FIPS 180-4), by the processor's instructions where it has them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tritium {

constexpr size_t kDigestBytes = 32;

class Sha256 {
 public:
  // `portable` leaves the processor's instructions aside: the bits are the same.
  explicit Sha256(bool portable = false);
  void update(std::span<const uint8_t> data);
  // Ends it: `digest` takes 32 bytes.
  void finish(uint8_t* digest);

 private:
  class Lanes;
  friend void sha256_each(std::span<const std::span<const uint8_t>> data, int n_threads, uint8_t* out);

  void compress(const uint8_t* blocks, size_t n);

  void (*const* compress_)(uint32_t* const* states, const uint8_t* const* blocks, size_t n);  // by the number of states
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> block_;
  size_t held_ = 0;  // bytes of block_
  uint64_t length_ = 0;
};

// The digest of each of the byte strings, 32 bytes at `out` each, by several threads, each at several strings
// at a time: one string keeps a core's instructions for it waiting. Strings of like lengths, or the longest first, share best.
void sha256_each(std::span<const std::span<const uint8_t>> data, int n_threads, uint8_t* out);

}  // namespace tritium
