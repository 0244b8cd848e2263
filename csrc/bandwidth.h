// The limit that decoding is held against: how fast this machine reads memory.
#pragma once

#include <cstdint>

namespace tritium {

// Gigabytes (10^9) a second at which n_threads together read a buffer of nbytes: the median of several passes.
double read_bandwidth(int n_threads, uint64_t nbytes);

}  // namespace tritium
