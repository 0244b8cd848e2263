// Drawing a token, bit for bit as tritium.engine.sampling defines it.
#pragma once

#include <cstdint>
#include <span>

namespace tritium {

constexpr int64_t kMostDrawn = 1024;  // candidates

struct DrawRule {
  double top_p, min_p;  // at least min_p times the first's weight
  float temperature;    // above 0
  int64_t vocab_size;
  uint64_t seed, sequence;
};

// out[i] = round_half_even(exp((logits[i] − first) / temperature)·2³²). `first` is finite and the greatest of the logits, so that no
// weight is above 2³².
void draw_weights(std::span<const float> logits, float first, float temperature, int64_t* out);

// Steps 6 to 10 without typical_p: the place of the token at `position` in a list of candidates, by descending logit, at most
// kMostDrawn; -1 where the first is not finite. `rest`, if not null, tells of the others as tail writes it: [3], an upper and a lower
// bound of their weight as a multiple of the first's, and how many candidates are sure to be the best; -1, too, where others may
// change the token.
int64_t draw(std::span<const float> candidates, const float* rest, const DrawRule& rule, uint64_t position);

}  // namespace tritium
