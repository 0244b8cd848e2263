#include "draw.h"

#include <algorithm>
#include <cmath>

#include "generic/lanes_scalar.h"
// Needs the operations of lanes.
#include "generic/exp.h"
#include "kernel.h"
#include "platform.h"

namespace tritium {

namespace {

constexpr double kOne = 4294967296.0;  // the weight of the best

// 53 bits of Philox4x32-10, as numerics.philox defines it.
uint64_t random_bits(uint64_t seed, uint64_t sequence, uint64_t position) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = static_cast<uint32_t>(sequence), c3 = static_cast<uint32_t>(sequence >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return uint64_t{c0 >> 5} << 26 | c1 >> 6;
}

}  // namespace

void draw_weights(std::span<const float> logits, float first, float temperature, int64_t* out) {
  // A number of float64 below 2⁵² that 2⁵² is added to is rounded to an integer, which its low bits then hold.
  constexpr double kMagic = 4503599627370496.0;
  constexpr int64_t kLowBits = (int64_t{1} << 52) - 1;
  const FloatEnvironment environment;
  const int64_t n = static_cast<int64_t>(logits.size());
  const lanes top = splat(first), divisor = splat(temperature);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    const float* x = logits.data() + i;
    float e[kLanes];
    store(e, exp(((count < kLanes ? load_first(x, count) : load(x)) - top) / divisor));
    for (int64_t l = 0; l < count; ++l) {
      const double rounded = static_cast<double>(e[l]) * kOne + kMagic;
      int64_t bits;
      std::memcpy(&bits, &rounded, sizeof bits);
      out[i + l] = bits & kLowBits;
    }
  }
}

int64_t draw(std::span<const float> candidates, const float* rest, const DrawRule& rule, uint64_t position) {
  constexpr float kMostRest = 1 << 20;  // far above what leaves a draw certain, and within int64 as a weight
  if (!std::isfinite(candidates[0])) return -1;
  if (rest != nullptr) {
    if (!(rest[0] <= kMostRest && rest[2] >= 1)) return -1;
    candidates = candidates.first(std::min(candidates.size(), static_cast<size_t>(rest[2])));
  }
  int64_t sums[kMostDrawn];
  draw_weights(candidates, candidates[0], rule.temperature, sums);
  const double floor = rule.min_p * static_cast<double>(sums[0]);
  const size_t n = candidates.size();
  const bool is_complete = rest == nullptr || sums[n - 1] == 0 || static_cast<int64_t>(n) == rule.vocab_size;
  int64_t n_above = 1;
  for (size_t i = 1; i < n; ++i) {
    n_above += static_cast<double>(sums[i]) >= floor;
    sums[i] += sums[i - 1];
  }
  // How many top_p and min_p keep, given the weight of all.
  const auto kept = [&](int64_t total) {
    const double least = rule.top_p * static_cast<double>(total);
    const auto is_below = [](int64_t sum, double x) { return static_cast<double>(sum) < x; };
    return std::min(n_above, static_cast<int64_t>(std::lower_bound(sums, sums + n, least, is_below) - sums) + 1);
  };
  const int64_t listed = sums[n - 1];
  int64_t least = listed, most = listed;
  if (!is_complete) {
    // Each weight of the rest is rounded, by half of one at most.
    const double lower = rest[1] > 0 ? std::min(rest[0], rest[1]) * kOne : 0;
    least += std::max(static_cast<int64_t>(lower) - rule.vocab_size, int64_t{0});
    most += static_cast<int64_t>(rest[0] * kOne) + rule.vocab_size;
  }
  const int64_t k = kept(most);
  const bool reaches = rule.top_p * static_cast<double>(most) <= static_cast<double>(listed);
  if (!(is_complete || reaches || k < static_cast<int64_t>(n)) || k != kept(least)) return -1;
  const __int128 bits = random_bits(rule.seed, rule.sequence, position);
  const __int128 target = bits * sums[k - 1] >> 53;
  return std::upper_bound(sums, sums + k, static_cast<int64_t>(target)) - sums;
}

}  // namespace tritium
