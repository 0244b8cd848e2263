// Hashes of what passes between the layers, by token: what a receipt commits to (src/tritium/evidence/trace.py).
#pragma once

#include <cstdint>
#include <vector>

#include "kernel.h"
#include "plan.h"
#include "platform.h"
#include "sha256.h"
#include "thread_pool.h"

namespace tritium {

// Where a step's hashes go. Pointers that are null are not wanted.
struct TraceView {
  uint8_t* columns = nullptr;  // [tokens][32]: SHA-256 of the digests of a token's quantized rows, in the plan's order
  uint8_t* hidden = nullptr;   // [outputs][32]: SHA-256 of the row that the head multiplies
  uint8_t* rows = nullptr;     // [tokens][Commitment::row_bytes()]: the quantized rows themselves
};

// A quantized row is its codes, then its scale as f32; its digest is SHA-256 of that. Where tokens are few, one worker makes a row
// and the others wait: such rows are kept, and hashed by all workers at the end.
class Commitment {
 public:
  explicit Commitment(const PlanSpec& plan);

  int64_t row_bytes() const { return row_bytes_; }

  // Takes rows begin … end of what a step has just written; for workers on different rows.
  void take(size_t step, const Call& call, int64_t begin, int64_t end, const TraceView& view);
  // Columns of all n tokens, once all steps have run.
  void finish(int64_t n, const TraceView& view, ThreadPool& pool);
  // The step's share of a token's quantized rows, by bytes.
  double share(size_t step) const;

 private:
  static constexpr int64_t kKeptTokens = 4;

  struct Site {
    int64_t index = -1;   // among the quantized rows of a token; −1: no codes
    int64_t bytes = 0;    // of the codes, or of the hidden row
    int64_t offset = 0;   // among the bytes of a token's quantized rows
    bool is_hidden = false;
  };

  uint8_t* digest(int64_t row, int64_t site) const { return digests_.data() + (row * n_sites_ + site) * static_cast<int64_t>(kDigestBytes); }

  std::vector<Site> sites_;  // by step
  int64_t n_sites_ = 0;
  int64_t row_bytes_ = 0;
  Pages digests_;  // [max_tokens][n_sites][32]
  Pages kept_;     // [kKeptTokens][row_bytes]
  std::vector<Sha256Job> kept_rows_;  // of kept_, to digests_
  std::vector<Sha256Job> columns_;    // of digests_, by token
};

}  // namespace tritium
