#include "executor.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "op_rules.h"
#include "registry.h"

namespace tritium {

namespace {

// The same failure, however the rows were divided.
Failure earlier(const Failure& a, const Failure& b) {
  if (a.error == Error::none || b.error == Error::none) return a.error == Error::none ? b : a;
  return std::pair(b.step, b.row) < std::pair(a.step, a.row) ? b : a;
}

}  // namespace

Executor::Role Executor::role_of(std::string_view op) {
  if (op == "screen" || op == "threshold" || op == "refine" || op == "rescore") return Role::screened_head;
  return op == "logits_projection" ? Role::full_head : op == "select" ? Role::select : op == "tail" ? Role::tail : Role::any;
}

Failure Executor::step(const StepRequest& request) {
  const std::unique_lock lock(*mutex_, std::try_to_lock);
  if (!lock.owns_lock()) throw std::runtime_error("another thread is in a step of this program");
  const uint64_t start = now_ns();
  check(request);
  request_ = &request;
  batch_ = {request.tokens.data(), request.positions.data(), request.slots.data(), request.block_tables, request.table_width,
            request.outputs.data(), static_cast<int32_t>(request.outputs.empty() ? 0 : request.top_k), nullptr, 0,
            request.temperatures, false};
  batch_.is_screened = screens() || !last_projection_;
  tile();
  failed_.store(false, std::memory_order_relaxed);
  n_outputs_ = 0;
  for (Worker& w : workers_) w.failure = {};
  walk();
  Failure first;
  for (const Worker& w : workers_) first = earlier(first, w.failure);
  totals_.n_steps += 1;
  totals_.n_tokens += request.tokens.size();
  totals_.wall_ns += now_ns() - start;
  return first;
}

// Asks for what the steps on one row that come next read, the weights of a norm: they are short, and would wait for every line.
// Forced inline: gcc drops calls of a function that does nothing but fetch.
[[gnu::always_inline]] inline void Executor::ask_for_rows(size_t first) const {
  constexpr int64_t kMostBytes = 1 << 16;
  for (size_t step = first; step < prepared_.size() && plan_.steps[step].rule->units == Units::rows && rows(plan_.steps[step]) == 1; ++step) {
    const Resident& weight = prepared_[step].calls[choose(step)].weights[0];
    if (weight.data == nullptr || weight.nbytes > kMostBytes) continue;
    for (int64_t b = 0; b < weight.nbytes; b += kAlignment) __builtin_prefetch(weight.data + b, 0, 2);
  }
}

void Executor::walk() {
  const FloatEnvironment environment;
  uint64_t mark = now_ns();
  const auto charge = [&](size_t step) {
    const uint64_t now = now_ns();
    counters_[prepared_[step].first_counter + choose(step)].ns += now - mark;
    mark = now;
  };
  for (size_t i = 0; i < prepared_.size() && !failed_.load(std::memory_order_relaxed);) {
    i = gather(i);
    if (together_.empty()) continue;
    const size_t last = together_.back();
    for (size_t step : together_) counters_[prepared_[step].first_counter + choose(step)].calls += 1;
    if (plan_.steps[last].rule->units == Units::panels) ask_for_rows(i);
    pool_->run(divide(together_[0]), [&](int worker, int64_t begin, int64_t end) {
      for (size_t step : together_) {
        if (!execute(step, worker, begin, end)) return;
        if (worker == 0 && together_.size() > 1) charge(step);
      }
    });
    charge(last);
  }
  if (!failed_.load(std::memory_order_relaxed)) copy_results();
}

// Collects the steps from `first` on that run together, and returns the one behind them.
size_t Executor::gather(size_t first) {
  together_.clear();
  size_t i = first;
  do {
    if (!skipped(plan_.steps[i], prepared_[i].role)) together_.push_back(i);
    ++i;
  } while (i < prepared_.size() && follows(i));
  return i;
}

// Whether the step runs with the one ahead of it, which the plan may have chosen other kernels for.
bool Executor::follows(size_t step) const {
  if (prepared_[step].follows_freely) return true;
  return prepared_[step].follows_by_panels && rows(plan_.steps[step]) == 1 && layout(step) == "i2_s" && layout(step - 1) != "i2s_columns";
}

// Of the kernel that the batch calls for.
std::string_view Executor::layout(size_t step) const { return prepared_[step].kernels[choose(step)]->layout; }

bool Executor::skipped(const StepSpec& step, Role role) const {
  if (step.domain == Domain::outputs && request_->outputs.empty()) return true;
  switch (role) {
    case Role::screened_head:
      return !screens();
    case Role::full_head:
      return screens();
    case Role::select:
      return batch_.top_k == 0;
    case Role::tail:
      return batch_.temperatures == nullptr;
    case Role::any:
      return false;
  }
  __builtin_unreachable();
}

// A plan without the full head is a part of one, and has nothing else to run.
bool Executor::screens() const {
  const bool is_wanted = batch_.top_k > 0 && batch_.top_k <= plan_.vocab_size / kScreenShare && request_->logits == nullptr &&
                         (batch_.temperatures == nullptr || planes_are_smaller_);
  return has_screen_ && (is_wanted || !last_projection_);
}

int64_t Executor::rows(const StepSpec& step) const {
  return static_cast<int64_t>(step.domain == Domain::tokens ? request_->tokens.size() : request_->outputs.size());
}

size_t Executor::choose(size_t step) const {
  const StepSpec& spec = plan_.steps[step];
  const int64_t t = rows(spec);
  for (size_t c = 0; c + 1 < spec.choices.size(); ++c) {
    if (spec.choices[c].t_min <= t && (spec.choices[c].t_max == 0 || t <= spec.choices[c].t_max)) return c;
  }
  return spec.choices.size() - 1;  // the plan covers every T
}


namespace {

// What is read once from end to end: long pieces, of which each worker takes the next.
Division stream(int64_t n, int64_t n_workers) {
  const int64_t align = n >= 16 * n_workers ? 4 : 1;
  return {n, round_up(std::max(n / (n_workers * 8), int64_t{1}), align), align, true};
}

// Panels of 16 rows that a linear has.
int64_t panels_of(const StepSpec& linear) { return (linear.ints[1] + kPanelRows - 1) / kPanelRows; }

}  // namespace

// Whether a linear's kernel forms tables of its tokens.
bool Executor::is_cut(size_t step) const {
  return prepared_[step].kernels[choose(step)]->forms_tables && rows(plan_.steps[step]) >= kTableLeast;
}

Executor::Cut Executor::cut(size_t step) const {
  constexpr int64_t kMostPanels = 160, kLeastPanels = 16;
  // Two sides share what is made of a panel's bytes; where they are few, workers need more parts.
  const int64_t t = rows(plan_.steps[step]), sides = t >= 8 * kTableSide * pool_->size() ? 2 : 1;
  const int64_t n = panels_of(plan_.steps[step]), part_tokens = sides * kTableSide, n_parts = std::max(t / part_tokens, int64_t{1});
  const int64_t wanted = std::max((n + kMostPanels - 1) / kMostPanels, (2 * pool_->size() + n_parts - 1) / n_parts);
  return {n_parts, part_tokens, std::clamp(wanted, int64_t{1}, std::max(n / kLeastPanels, int64_t{1}))};
}

Division Executor::divide(size_t step) const {
  const StepSpec& spec = plan_.steps[step];
  const int64_t n_workers = pool_->size(), t = rows(spec);
  if (is_cut(step)) return {cut(step).n_parts * cut(step).n_pieces, 1, 1, true};
  if (layout(step) == "i2s_columns") return {ColumnUnits(t, spec.ints[0], n_workers).size(), 1, 1, true};
  if (layout(step) == "i2_s" && spec.rule->units == Units::panels) {
    // What a kernel asks for ahead ends with its range: few long ones, each of which begins with a wait.
    const int64_t n = panels_of(spec), align = t == 1 ? 1 : 8;
    return {n, round_up(std::max(n / (n_workers * (t == 1 ? 2 : 4)), int64_t{1}), align), align, true};
  }
  const auto streamed = [&](int64_t n) { return stream(n, n_workers); };
  switch (spec.rule->units) {
    case Units::rows:
      // Below two rows the others' help costs more than it saves; of few rows at a time a chain's steps find each other's in cache, but
      // several are hashed side by side.
      return {t, std::clamp(t / (n_workers * 4), int64_t{2}, int64_t{together_.size() == 1 ? 16 : request_->trace.columns != nullptr ? 8 : 4})};
    case Units::vocab_groups:
      return streamed((plan_.vocab_size + kPanelRows - 1) / kPanelRows);
    case Units::panels: {
      const int64_t n = panels_of(spec);
      if (t == 1) return streamed(n);
      return {n, std::clamp(round_up(n / (n_workers * 4), 4), int64_t{4}, int64_t{32}), 4, true};
    }
    case Units::row_heads: {
      const int64_t units = static_cast<int64_t>(tiles_.size() - 1) * plan_.n_kv_heads;
      // Splits of one row one after the other: a worker's reads are one stream.
      return batch_.n_splits == 0 ? Division{units, 1} : Division{units * batch_.n_splits, 1, 1, true};
    }
  }
  __builtin_unreachable();
}

// Cuts the batch into rows that attend together. Few of them leave workers idle: then their splits are units, too.
void Executor::tile() {
  const auto& slots = request_->slots;
  const int64_t t = static_cast<int64_t>(slots.size()), n_workers = pool_->size();
  const auto cut = [&](int64_t most) {
    tiles_.clear();
    for (int64_t r = 0; r < t; ++r) {
      if (tiles_.empty() || r - tiles_.back() == most || slots[static_cast<size_t>(r)] != slots[static_cast<size_t>(tiles_.back())]) {
        tiles_.push_back(static_cast<int32_t>(r));
      }
    }
    tiles_.push_back(static_cast<int32_t>(t));
  };
  cut(kTileRows);
  const int64_t last = *std::max_element(request_->positions.begin(), request_->positions.end());
  const int64_t n_splits = last / kAttentionSplit + 1;
  const bool is_few = static_cast<int64_t>(tiles_.size() - 1) * plan_.n_kv_heads < 4 * n_workers;
  if (n_workers > 1 && n_splits > 1 && is_few && t * plan_.n_kv_heads * n_splits * part_floats_ <= kMostPartFloats) {
    batch_.n_splits = static_cast<int32_t>(n_splits);
  } else {
    cut(std::clamp(t / (n_workers * 4), int64_t{1}, int64_t{kTileRows}));
  }
  batch_.tiles = tiles_.data();
}

bool Executor::execute(size_t step, int worker, int64_t begin, int64_t end) {
  const StepSpec& spec = plan_.steps[step];
  const Prepared& prepared = prepared_[step];
  const size_t choice = choose(step);
  Call call = prepared.calls[choice];
  call.t = rows(spec);
  call.batch = batch_;
  call.scratch = reinterpret_cast<float*>(scratch_.data()) + worker * kScratchFloats;
  call.scratch_floats = kScratchFloats;
  call.parts = reinterpret_cast<float*>(parts_.data());
  call.arrivals = arrivals_.data();
  call.partials = {reinterpret_cast<int32_t*>(partial_sums_.data()), partial_stride_, pool_->size(), worker, &partials_done_};
  if (prepared.role == Role::select) {
    call.out[0] = {candidate_ids(), candidate_stride()};
    call.out[1] = {candidate_values(), candidate_stride()};
  }
  if (prepared.role == Role::tail && has_select_) {
    call.in[3] = {candidate_ids(), candidate_stride()};
    call.in[4] = {candidate_values(), candidate_stride()};
  }
  Work work;
  if (is_cut(step)) {
    for (int64_t unit = begin; unit < end; ++unit) run_unit(step, call, unit, work);
  } else {
    prepared.kernels[choice]->run(call, begin, end, work);
  }
  tally(prepared.first_counter + choice, worker, work);
  Worker& me = workers_[static_cast<size_t>(worker)];
  if (work.error == Error::none) {
    commitment_.take(step, call, begin, end, request_->trace);
    return true;
  }
  me.failure = earlier(me.failure, {work.error, static_cast<int64_t>(step), work.error_row});
  failed_.store(true, std::memory_order_relaxed);
  return false;
}

// A part's pieces one after the other. The last part takes what is left over; the first counts the bytes, which all read.
void Executor::run_unit(size_t step, const Call& call, int64_t unit, Work& work) const {
  const auto [n_parts, part_tokens, n_pieces] = cut(step);
  const int64_t n = panels_of(plan_.steps[step]), part = unit / n_pieces, piece = unit % n_pieces, first = part_tokens * part;
  Call mine = call;
  mine.t = part + 1 < n_parts ? part_tokens : call.t - first;
  mine.in[0].data = call.in[0].row<int8_t>(first);
  mine.in[1].data = call.in[1].row<float>(first);
  mine.out[0].data = call.out[0].row<float>(first);
  const uint64_t bytes = work.bytes;
  prepared_[step].kernels[choose(step)]->run(mine, n * piece / n_pieces, n * (piece + 1) / n_pieces, work);
  if (part > 0) work.bytes = bytes;
}

void Executor::tally(size_t counter, int worker, const Work& work) {
  Tally& mine = workers_[static_cast<size_t>(worker)].tallies[counter];
  mine.macs += work.macs;
  mine.macs_skipped += work.macs_skipped;
  mine.bytes += work.bytes;
}

void Executor::project(int64_t output, float* logits) {
  const std::unique_lock lock(*mutex_, std::try_to_lock);
  if (!lock.owns_lock()) throw std::runtime_error("another thread is in a step of this program");
  if (!last_projection_ || output < 0 || output >= n_outputs_) throw std::invalid_argument("the last step had no such output");
  const uint64_t start = now_ns();
  const Prepared& prepared = prepared_[*last_projection_];
  Call call = prepared.calls[0];
  call.t = 1;
  for (Operand* operand : {&call.in[0], &call.out[0]}) operand->data = operand->row<float>(output);
  const auto copy = [&] { std::memcpy(logits, call.out[0].data, static_cast<size_t>(plan_.vocab_size) * sizeof(float)); };
  if (has_all_logits_) return copy();
  {
    const FloatEnvironment environment;
    pool_->run(stream((plan_.vocab_size + kPanelRows - 1) / kPanelRows, pool_->size()), [&](int worker, int64_t begin, int64_t end) {
      Call mine = call;
      mine.scratch = reinterpret_cast<float*>(scratch_.data()) + worker * kScratchFloats;
      mine.scratch_floats = kScratchFloats;
      Work work;
      prepared.kernels[0]->run(mine, begin, end, work);
      tally(prepared.first_counter, worker, work);
    });
  }
  copy();
  StepCounter& counter = counters_[prepared.first_counter];
  counter.calls += 1;
  counter.ns += now_ns() - start;
  totals_.wall_ns += now_ns() - start;
}

void Executor::copy_results() {
  n_outputs_ = static_cast<int64_t>(request_->outputs.size());
  has_all_logits_ = !screens();
  const uint64_t start = now_ns();
  commitment_.finish(static_cast<int64_t>(request_->tokens.size()), request_->trace, *pool_);
  // Where rows are hashed at the end, too, their hashing is the time of the steps that made them.
  const double hashing = static_cast<double>(now_ns() - start);
  for (size_t i = 0; request_->trace.columns != nullptr && i < prepared_.size(); ++i) {
    counters_[prepared_[i].first_counter + choose(i)].ns += static_cast<uint64_t>(hashing * commitment_.share(i));
  }
  pool_->run({static_cast<int64_t>(request_->outputs.size()), 1}, [&](int, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (request_->logits != nullptr) {
        const Operand logits = operand(plan_.steps[*last_projection_].outputs[0]);
        std::memcpy(request_->logits + r * plan_.vocab_size, logits.row<float>(r),
                    static_cast<size_t>(plan_.vocab_size) * sizeof(float));
      }
      if (batch_.temperatures != nullptr && tail_) {
        std::memcpy(request_->rest + 3 * r, operand(plan_.steps[*tail_].outputs[0]).row<float>(r), 3 * sizeof(float));
      }
      if (batch_.top_k > 0 && has_select_) {
        const size_t nbytes = static_cast<size_t>(batch_.top_k) * 4;
        std::memcpy(request_->ids + r * batch_.top_k, candidate_ids() + r * candidate_stride(), nbytes);
        std::memcpy(request_->values + r * batch_.top_k, candidate_values() + r * candidate_stride(), nbytes);
      }
    }
  });
}

int64_t Executor::candidate_stride() const { return round_up(max_top_k_, kLanes); }

int32_t* Executor::candidate_ids() const { return reinterpret_cast<int32_t*>(candidates_.data()); }

float* Executor::candidate_values() const {
  return reinterpret_cast<float*>(candidates_.data()) + plan_.max_outputs * candidate_stride();
}

std::vector<StepCounter> Executor::counters() {
  const std::lock_guard lock(*mutex_);
  std::vector<StepCounter> sums = counters_;
  for (const Worker& w : workers_) {
    for (size_t i = 0; i < sums.size(); ++i) {
      sums[i].macs += w.tallies[i].macs;
      sums[i].macs_skipped += w.tallies[i].macs_skipped;
      sums[i].bytes += w.tallies[i].bytes;
    }
  }
  return sums;
}

Totals Executor::totals() {
  const std::lock_guard lock(*mutex_);
  return totals_;
}

void Executor::reset_counters() {
  const std::lock_guard lock(*mutex_);
  totals_ = {};
  for (StepCounter& c : counters_) c = {c.step, c.choice, 0, 0, 0, 0, 0};
  for (Worker& w : workers_) std::fill(w.tallies.begin(), w.tallies.end(), Tally{});
}

void Executor::copy_block(int64_t source, int64_t target) {
  const std::lock_guard lock(*mutex_);
  if (source < 0 || source >= kv_blocks_ || target < 0 || target >= kv_blocks_) {
    throw std::invalid_argument("copy_block: expected blocks 0 to " + std::to_string(kv_blocks_ - 1) + ", got " +
                                std::to_string(source) + " and " + std::to_string(target));
  }
  if (source == target) return;
  const int64_t nbytes = kv_half_ * 2 * plan_.n_kv_layers;
  std::memcpy(cache_.data() + target * nbytes, cache_.data() + source * nbytes, static_cast<size_t>(nbytes));
}

void Executor::renew_after_fork() {
  if (pool_->usable()) return;
  // The parent may have forked while another of its threads held the lock.
  static_cast<void>(mutex_.release());
  mutex_ = std::make_unique<std::mutex>();
  pool_ = std::make_unique<ThreadPool>(pool_->size());
  if (partial_sums_.size() > 0) std::memset(partial_sums_.data(), 0, partial_sums_.size());
  partials_done_ = 0;
}

}  // namespace tritium
