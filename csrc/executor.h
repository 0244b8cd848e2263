// Runs a plan on batches of tokens: one call a step of the engine.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "commitment.h"
#include "kernel.h"
#include "plan.h"
#include "platform.h"
#include "thread_pool.h"

namespace tritium {

constexpr int64_t kScratchFloats = 1 << 18;    // of each worker
constexpr int64_t kMostPartFloats = 1 << 24;  // splits of attention that may be under way

struct Failure {
  Error error = Error::none;
  int64_t step = -1;
  int64_t row = -1;
};

// One call's input, and where its output goes. Pointers that are null are not wanted.
struct StepRequest {
  std::span<const int32_t> tokens, positions, slots;
  const int32_t* block_tables = nullptr;  // [n_slots][table_width]
  int64_t n_slots = 0;
  int64_t table_width = 0;
  std::span<const int32_t> outputs;
  int64_t top_k = 0;
  float* logits = nullptr;   // [outputs][vocab_size]
  int32_t* ids = nullptr;    // [outputs][top_k]
  float* values = nullptr;   // [outputs][top_k]
  TraceView trace;
  const float* temperatures = nullptr;  // [outputs], as in BatchView
  float* rest = nullptr;                // [outputs][3], written by tail
};

struct StepCounter {
  int64_t step;
  int64_t choice;
  uint64_t calls;
  uint64_t macs;
  uint64_t macs_skipped;
  uint64_t bytes;
  uint64_t ns;
};

struct Totals {
  uint64_t n_steps = 0;
  uint64_t n_tokens = 0;
  uint64_t wall_ns = 0;
};

class Executor {
 public:
  // Residents stay the caller's and must outlive the executor. Throws std::invalid_argument when something does not fit the plan,
  // std::bad_alloc when the system has no memory for arena or cache.
  Executor(PlanSpec plan, std::span<const std::span<const uint8_t>> residents, int64_t kv_blocks, int n_threads);

  // Checks the request (std::invalid_argument), runs it, and says what failed, if anything. std::runtime_error when another thread
  // is in a step.
  Failure step(const StepRequest& request);

  std::vector<StepCounter> counters();
  Totals totals();
  void reset_counters();
  void copy_block(int64_t source, int64_t target);

  // Puts kernels that do nothing in the place of the one of this id, and all others back; an empty id puts all back. Returns the
  // number of places. For experiments on what a run depends on.
  int64_t knock_out(std::string_view kernel);

  // All logits of one output of the last step, [vocab_size]. std::invalid_argument if that step had no such output.
  void project(int64_t output, float* logits);

  // To be called in a child process before anything else: locks and threads of the parent are not there.
  void renew_after_fork();

  const PlanSpec& plan() const { return plan_; }
  int n_threads() const { return pool_->size(); }
  uint32_t n_shared_loops() const { return pool_->n_shared(); }
  int64_t kv_blocks() const { return kv_blocks_; }
  uint8_t* arena() const { return arena_.data(); }
  KvLayer kv(int64_t layer) const;
  int64_t trace_row_bytes() const { return commitment_.row_bytes(); }

 private:
  // Candidates come from a screened head where the plan has one, full logits from the full head.
  enum class Role { any, screened_head, full_head, select, tail };
  static Role role_of(std::string_view op);

  // A step with everything that does not depend on the batch in place.
  struct Prepared {
    std::vector<Call> calls;            // one a choice
    std::vector<const Kernel*> kernels;  // likewise
    size_t first_counter;
    bool follows_freely;  // can run on some rows before the steps ahead of it have run on the others
    bool follows_by_panels;  // likewise on some panels, where it lists the rows of open gates
    Role role;
    std::vector<const Kernel*> whole = {};  // the kernels, while some are knocked out
  };
  // Units of a linear of many tokens: parts of these times pieces of its panels.
  struct Cut {
    int64_t n_parts, part_tokens, n_pieces;
  };
  struct Tally {
    uint64_t macs = 0, macs_skipped = 0, bytes = 0;
  };
  struct alignas(kAlignment) Worker {
    std::vector<Tally> tallies;
    Failure failure;  // the one of the lowest step and row
  };

  void bind_residents(std::span<const std::span<const uint8_t>> residents);
  void prepare();
  void bind_kernel(size_t step, size_t choice, Call call);
  bool can_follow_freely(size_t first, size_t step) const;
  bool can_follow_by_panels(size_t step) const;
  bool overlap(const OperandSpec& a, const OperandSpec& b) const;
  Operand operand(const OperandSpec& spec) const;
  void check(const StepRequest& request);
  void check_tables(const StepRequest& request);
  void check_results(const StepRequest& request) const;
  void walk();
  size_t gather(size_t first);
  bool follows(size_t step) const;
  std::string_view layout(size_t step) const;
  void ask_for_rows(size_t first) const;
  bool skipped(const StepSpec& step, Role role) const;
  bool screens() const;
  int64_t rows(const StepSpec& step) const;
  size_t choose(size_t step) const;
  Division divide(size_t step) const;
  bool is_cut(size_t step) const;
  Cut cut(size_t step) const;
  void tile();
  void tally(size_t counter, int worker, const Work& work);
  bool execute(size_t step, int worker, int64_t begin, int64_t end);
  void run_unit(size_t step, const Call& call, int64_t unit, Work& work) const;
  void copy_results();
  int64_t candidate_stride() const;
  int32_t* candidate_ids() const;
  float* candidate_values() const;

  PlanSpec plan_;
  int64_t kv_blocks_;
  int64_t kv_half_ = 0;  // bytes of a block's keys in one layer, padded to whole cache lines
  std::vector<Resident> residents_;
  Pages arena_, cache_, scratch_, candidates_, parts_, partial_sums_;
  int64_t partial_stride_ = 0;
  int64_t max_top_k_;
  std::optional<size_t> last_projection_, tail_;
  std::vector<int32_t> arrivals_;
  int64_t part_floats_ = 0;  // of one token's heads and one split
  bool has_select_ = false;
  bool has_screen_ = false;
  bool planes_are_smaller_ = true;  // than the head: to bound every row of it from all its codes can pay
  std::vector<Prepared> prepared_;
  Commitment commitment_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<std::mutex> mutex_;

  int64_t n_outputs_ = 0;  // of the last request that ran to its end
  bool has_all_logits_ = false;  // it left them in the arena

  // Of the running request.
  const StepRequest* request_ = nullptr;
  BatchView batch_{};
  std::vector<int32_t> last_positions_;
  std::vector<int32_t> tiles_;
  std::vector<int64_t> places_;
  std::vector<Worker> workers_;
  std::vector<size_t> together_;  // steps that run as one loop
  std::atomic<bool> failed_{false};
  int64_t partials_done_ = 0;

  std::vector<StepCounter> counters_;
  Totals totals_;
};

}  // namespace tritium
