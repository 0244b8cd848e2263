// What a request must satisfy before a kernel sees it: every index that a kernel follows is checked here and nowhere else.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "executor.h"

namespace tritium {

namespace {

[[noreturn]] void fail(const std::string& what, int64_t row, int64_t got) {
  throw std::invalid_argument(what + ", got " + std::to_string(got) + " in row " + std::to_string(row));
}

void check_size(size_t n, int64_t least, int64_t greatest, const char* what) {
  if (static_cast<int64_t>(n) < least || static_cast<int64_t>(n) > greatest) {
    throw std::invalid_argument(std::string(what) + ": expected " + std::to_string(least) + " to " + std::to_string(greatest) +
                                ", got " + std::to_string(n));
  }
}

}  // namespace

void Executor::check(const StepRequest& r) {
  check_size(r.tokens.size(), 1, plan_.max_tokens, "tokens");
  check_size(r.outputs.size(), 0, std::min(plan_.max_outputs, static_cast<int64_t>(r.tokens.size())), "outputs");
  if (r.positions.size() != r.tokens.size() || r.slots.size() != r.tokens.size()) {
    throw std::invalid_argument("positions and slots: expected one for each of " + std::to_string(r.tokens.size()) + " tokens");
  }
  const int64_t n = static_cast<int64_t>(r.tokens.size());
  for (int64_t i = 0; i < n; ++i) {
    const size_t at = static_cast<size_t>(i);
    if (r.tokens[at] < 0 || r.tokens[at] >= plan_.vocab_size) {
      fail("token: expected 0 to " + std::to_string(plan_.vocab_size - 1), i, r.tokens[at]);
    }
    if (r.positions[at] < 0 || r.positions[at] >= plan_.max_context) {
      fail("position: expected 0 to " + std::to_string(plan_.max_context - 1), i, r.positions[at]);
    }
    if (r.slots[at] < 0 || r.slots[at] >= r.n_slots) {
      fail("slot: expected 0 to " + std::to_string(r.n_slots - 1), i, r.slots[at]);
    }
  }
  int64_t before = -1;
  for (size_t i = 0; i < r.outputs.size(); ++i) {
    if (r.outputs[i] <= before || r.outputs[i] >= n) {
      fail("output: expected ascending rows below " + std::to_string(n), static_cast<int64_t>(i), r.outputs[i]);
    }
    before = r.outputs[i];
  }
  check_tables(r);
  check_results(r);
}

void Executor::check_tables(const StepRequest& r) {
  if (plan_.n_kv_layers == 0) return;
  last_positions_.assign(static_cast<size_t>(r.n_slots), -1);
  for (size_t i = 0; i < r.tokens.size(); ++i) {
    int32_t& last = last_positions_[static_cast<size_t>(r.slots[i])];
    last = std::max(last, r.positions[i]);
  }
  for (int64_t slot = 0; slot < r.n_slots; ++slot) {
    const int64_t last = last_positions_[static_cast<size_t>(slot)];
    if (last < 0) continue;
    const int64_t needed = last / plan_.kv_block + 1;
    if (needed > r.table_width) {
      throw std::invalid_argument("block_tables: position " + std::to_string(last) + " needs " + std::to_string(needed) +
                                  " blocks, got " + std::to_string(r.table_width));
    }
    const int32_t* table = r.block_tables + slot * r.table_width;
    for (int64_t b = 0; b < needed; ++b) {
      if (table[b] < 0 || table[b] >= kv_blocks_) {
        fail("block: expected 0 to " + std::to_string(kv_blocks_ - 1), slot, table[b]);
      }
    }
  }
  // Two tokens that write one place of the cache would make the result depend on the order of workers.
  if (r.tokens.size() == 1) return;
  places_.clear();
  for (size_t i = 0; i < r.tokens.size(); ++i) {
    const int64_t position = r.positions[i];
    const int64_t block = r.block_tables[r.slots[i] * r.table_width + position / plan_.kv_block];
    places_.push_back(block * plan_.kv_block + position % plan_.kv_block);
  }
  std::sort(places_.begin(), places_.end());
  if (std::adjacent_find(places_.begin(), places_.end()) != places_.end()) {
    throw std::invalid_argument("two tokens have the same place in the cache");
  }
}

void Executor::check_results(const StepRequest& r) const {
  if (r.outputs.empty()) return;
  if (r.logits != nullptr && !last_projection_) throw std::invalid_argument("logits: the plan has no logits_projection");
  if (r.top_k < 0 || r.top_k > max_top_k_) {
    throw std::invalid_argument("top_k: expected 0 to " + std::to_string(max_top_k_) + ", got " + std::to_string(r.top_k));
  }
  if (r.top_k > 0 && !has_select_ && !has_screen_ && !tail_) throw std::invalid_argument("top_k: the plan has no select");
  if (r.temperatures != nullptr) {
    if ((!tail_ && !has_screen_) || r.top_k == 0 || (tail_ && r.rest == nullptr)) {
      throw std::invalid_argument("temperatures: expected a plan with tail, top_k above 0 and an array for the rest");
    }
    for (size_t i = 0; i < r.outputs.size(); ++i) {
      const float t = r.temperatures[i];
      if (t != 0 && !(t >= 1e-6f && t <= 1e6f)) throw std::invalid_argument("temperature: expected 0, or 1e-6 to 1e6");
    }
  }
  if (r.top_k > 0 && has_select_ && (r.ids == nullptr || r.values == nullptr)) {
    throw std::invalid_argument("top_k above 0: expected arrays for ids and values");
  }
}

}  // namespace tritium
