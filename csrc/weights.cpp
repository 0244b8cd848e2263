#include "weights.h"

#include "generic/lanes_scalar.h"
// Needs the operations of lanes.
#include "generic/exp.h"
#include "kernel.h"
#include "platform.h"

namespace tritium {

void draw_weights(const float* logits, int64_t n, float first, float temperature, int64_t* out) {
  // A number of float64 below 2⁵² that 2⁵² is added to is rounded to an integer, which its low bits then hold.
  constexpr double kMagic = 4503599627370496.0, kOne = 4294967296.0;
  constexpr int64_t kLowBits = (int64_t{1} << 52) - 1;
  const FloatEnvironment environment;
  const lanes top = splat(first), divisor = splat(temperature);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    float e[kLanes];
    store(e, exp(((count < kLanes ? load_first(logits + i, count) : load(logits + i)) - top) / divisor));
    for (int64_t l = 0; l < count; ++l) {
      const double rounded = static_cast<double>(e[l]) * kOne + kMagic;
      int64_t bits;
      std::memcpy(&bits, &rounded, sizeof bits);
      out[i + l] = bits & kLowBits;
    }
  }
}

}  // namespace tritium
