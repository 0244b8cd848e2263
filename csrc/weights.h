// The integer weights of a draw.
#pragma once

#include <cstdint>

namespace tritium {

// out[i] = round_half_even(exp((logits[i] − first) / temperature)·2³²), bit for bit as tritium.engine.sampling defines them. `first` is
// finite and the greatest of the logits, `temperature` above 0, so that no weight is above 2³².
void draw_weights(const float* logits, int64_t n, float first, float temperature, int64_t* out);

}  // namespace tritium
