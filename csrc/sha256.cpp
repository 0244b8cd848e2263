#include "sha256.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <iterator>

#include "isa.h"
#include "thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tritium {

namespace {

alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::array<uint32_t, 8> kInitial = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

// Strings that one thread hashes at a time. Each round waits for the one before it in its string; others fill the wait.
constexpr int kLanes = 3;

// `n` blocks into each of several states.
using Compress = void (*)(uint32_t* const* states, const uint8_t* const* blocks, size_t n);

uint32_t big_endian(const uint8_t* p) { return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3]; }

void compress_one(uint32_t* state, const uint8_t* blocks, size_t n) {
  for (; n > 0; --n, blocks += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(blocks + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] + (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    uint32_t s[8];
    std::copy_n(state, 8, s);
    for (int i = 0; i < 64; ++i) {
      const uint32_t e = s[4], a = s[0];
      const uint32_t t = s[7] + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + kRound[i] + w[i];
      const uint32_t u = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
      std::copy_backward(s, s + 7, s + 8);
      s[4] += t;
      s[0] = t + u;
    }
    for (int i = 0; i < 8; ++i) state[i] += s[i];
  }
}

template <int kStates>
void compress_portable(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
  for (int lane = 0; lane < kStates; ++lane) compress_one(states[lane], blocks[lane], n);
}

#if defined(__x86_64__)

// Source: Intel SHA extensions, new instructions supporting the secure hash algorithm on Intel architecture processors, 2013.
template <int kStates>
__attribute__((target("sha,sse4.1"))) void compress_fast(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i abef[kStates], cdgh[kStates], abef_before[kStates], cdgh_before[kStates], w[kStates][4];
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) {
    const __m128i low = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(states[k])), 0xb1);
    const __m128i high = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(states[k] + 4)), 0x1b);
    abef[k] = _mm_alignr_epi8(low, high, 8), cdgh[k] = _mm_blend_epi16(high, low, 0xf0);
  }
  for (size_t at = 0; at < 64 * n; at += 64) {
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abef_before[k] = abef[k], cdgh_before[k] = cdgh[k];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) w[k][i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks[k] + at) + i), swap);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
#pragma GCC unroll 4
      for (int k = 0; k < kStates; ++k) {
        const __m128i m = _mm_add_epi32(w[k][i & 3], _mm_load_si128(reinterpret_cast<const __m128i*>(kRound) + i));
        cdgh[k] = _mm_sha256rnds2_epu32(cdgh[k], abef[k], m);
        abef[k] = _mm_sha256rnds2_epu32(abef[k], cdgh[k], _mm_shuffle_epi32(m, 0x0e));
        if (i < 12) {
          const __m128i next = w[k][(i + 3) & 3];
          const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[k][i & 3], w[k][(i + 1) & 3]), _mm_alignr_epi8(next, w[k][(i + 2) & 3], 4));
          w[k][i & 3] = _mm_sha256msg2_epu32(sum, next);
        }
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abef[k] = _mm_add_epi32(abef[k], abef_before[k]);
      cdgh[k] = _mm_add_epi32(cdgh[k], cdgh_before[k]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) {
    const __m128i feba = _mm_shuffle_epi32(abef[k], 0x1b), dchg = _mm_shuffle_epi32(cdgh[k], 0xb1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states[k]), _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states[k] + 4), _mm_alignr_epi8(dchg, feba, 8));
  }
}

#elif defined(__aarch64__)

// Source: Arm architecture reference manual, SHA256H, SHA256H2, SHA256SU0 and SHA256SU1.
template <int kStates>
__attribute__((target("+crypto"))) void compress_fast(uint32_t* const* states, const uint8_t* const* blocks, size_t n) {
  uint32x4_t abcd[kStates], efgh[kStates], abcd_before[kStates], efgh_before[kStates], w[kStates][4];
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) abcd[k] = vld1q_u32(states[k]), efgh[k] = vld1q_u32(states[k] + 4);
  for (size_t at = 0; at < 64 * n; at += 64) {
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abcd_before[k] = abcd[k], efgh_before[k] = efgh[k];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) w[k][i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks[k] + at + 16 * i)));
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
#pragma GCC unroll 4
      for (int k = 0; k < kStates; ++k) {
        const uint32x4_t m = vaddq_u32(w[k][i & 3], vld1q_u32(kRound + 4 * i));
        const uint32x4_t before = abcd[k];
        abcd[k] = vsha256hq_u32(abcd[k], efgh[k], m);
        efgh[k] = vsha256h2q_u32(efgh[k], before, m);
        if (i < 12) w[k][i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[k][i & 3], w[k][(i + 1) & 3]), w[k][(i + 2) & 3], w[k][(i + 3) & 3]);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < kStates; ++k) {
      abcd[k] = vaddq_u32(abcd[k], abcd_before[k]);
      efgh[k] = vaddq_u32(efgh[k], efgh_before[k]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kStates; ++k) {
    vst1q_u32(states[k], abcd[k]);
    vst1q_u32(states[k] + 4, efgh[k]);
  }
}

#else

template <int kStates>
constexpr Compress compress_fast = compress_portable<kStates>;

#endif

// By the number of states.
constexpr Compress kPortable[] = {nullptr, compress_portable<1>, compress_portable<2>, compress_portable<3>};
constexpr Compress kFast[] = {nullptr, compress_fast<1>, compress_fast<2>, compress_fast<3>};
static_assert(std::size(kFast) == kLanes + 1);

bool has_instructions() {
  static const bool has = cpu_has_sha256();
  return has;
}

}  // namespace

Sha256::Sha256(bool portable) : compress_(portable || !has_instructions() ? kPortable : kFast), state_(kInitial) {}

void Sha256::compress(const uint8_t* blocks, size_t n) {
  uint32_t* const state = state_.data();
  compress_[1](&state, &blocks, n);
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

class Sha256::Lanes {
 public:
  Lanes(std::span<const std::span<const uint8_t>> data, std::atomic<size_t>& next, uint8_t* out) : data_(data), next_(next), out_(out) {}

  // Hashes strings that no other thread has taken until there are none.
  void run() {
    while (fill() > 0) {
      size_t n_blocks = SIZE_MAX;
      uint32_t* states[kLanes];
      const uint8_t* blocks[kLanes];
      for (int k = 0; k < n_; ++k) {
        states[k] = lanes_[k].hash.state_.data();
        blocks[k] = lanes_[k].left.data();
        n_blocks = std::min(n_blocks, lanes_[k].left.size() / 64);
      }
      lanes_[0].hash.compress_[n_](states, blocks, n_blocks);
      for (int k = n_ - 1; k >= 0; --k) advance(k, 64 * n_blocks);
    }
  }

 private:
  struct Lane {
    Sha256 hash;
    std::span<const uint8_t> left;
    uint8_t* digest;
  };

  int fill() {
    while (n_ < kLanes && next_.load(std::memory_order_relaxed) < data_.size()) {
      const size_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i < data_.size()) lanes_[n_++] = {Sha256(), data_[i], out_ + i * kDigestBytes};
    }
    return n_;
  }

  void advance(int k, size_t n_bytes) {
    Lane& lane = lanes_[k];
    lane.hash.length_ += n_bytes;
    lane.left = lane.left.subspan(n_bytes);
    if (lane.left.size() >= 64) return;
    lane.hash.update(lane.left);
    lane.hash.finish(lane.digest);
    if (k != --n_) lane = lanes_[n_];
  }

  std::span<const std::span<const uint8_t>> data_;
  std::atomic<size_t>& next_;
  uint8_t* out_;
  std::array<Lane, kLanes> lanes_;
  int n_ = 0;
};

void sha256_each(std::span<const std::span<const uint8_t>> data, int n_threads, uint8_t* out) {
  ThreadPool pool(n_threads);
  std::atomic<size_t> next{0};
  pool.run({n_threads, 1}, [&](int, int64_t, int64_t) { Sha256::Lanes(data, next, out).run(); });
}

}  // namespace tritium
