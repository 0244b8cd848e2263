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

constexpr int64_t kMaxTopK = 1024;
constexpr int64_t kScratchFloats = 1 << 18;
constexpr int64_t kMostPartFloats = 1 << 24;  // splits of attention that may be under way

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

uint64_t element_alignment(const std::string& layout) { return layout == "f32" || layout.starts_with("i2") ? 4 : 2; }

// The same failure, however the rows were divided.
Failure earlier(const Failure& a, const Failure& b) {
  if (a.error == Error::none || b.error == Error::none) return a.error == Error::none ? b : a;
  return std::pair(b.step, b.row) < std::pair(a.step, a.row) ? b : a;
}

std::string at_step(size_t step, const StepSpec& spec) { return "step " + std::to_string(step) + " (" + spec.rule->name + "): "; }

}  // namespace

Executor::Role Executor::role_of(std::string_view op) {
  if (op == "screen" || op == "threshold" || op == "refine" || op == "rescore") return Role::screened_head;
  return op == "logits_projection" ? Role::full_head : op == "select" ? Role::select : op == "tail" ? Role::tail : Role::any;
}

Executor::Executor(PlanSpec plan, std::span<const std::span<const uint8_t>> residents, int64_t kv_blocks, int n_threads)
    : plan_(std::move(plan)), kv_blocks_(kv_blocks), max_top_k_(std::min(kMaxTopK, plan_.vocab_size)), commitment_(plan_) {
  if (kv_blocks < 0 || kv_blocks > (int64_t{1} << 24) || (kv_blocks == 0 && plan_.n_kv_layers > 0)) {
    throw std::invalid_argument("kv_blocks: expected 1 to 2^24, got " + std::to_string(kv_blocks));
  }
  pool_ = std::make_unique<ThreadPool>(n_threads);
  mutex_ = std::make_unique<std::mutex>();
  arena_ = Pages(plan_.arena_bytes, PageSize::huge);
  const __int128 half = static_cast<__int128>(kv_blocks) * plan_.kv_block_bytes();
  if (half * 2 * plan_.n_kv_layers > (__int128{1} << 46)) throw std::invalid_argument("kv_blocks: the cache would take over 2^46 bytes");
  kv_half_ = round_up(static_cast<int64_t>(half), kAlignment);
  cache_ = Pages(static_cast<uint64_t>(kv_half_ * 2 * plan_.n_kv_layers) + kAlignment);
  bind_residents(residents);
  prepare();
  scratch_ = Pages(static_cast<uint64_t>(kScratchFloats * n_threads) * sizeof(float));
  const int64_t splits = round_up(plan_.max_context, kAttentionSplit) / kAttentionSplit;
  const __int128 parts = static_cast<__int128>(plan_.max_tokens) * plan_.n_kv_heads * splits * part_floats_;
  parts_ = Pages(static_cast<uint64_t>(std::min<__int128>(parts, kMostPartFloats)) * sizeof(float));
  arrivals_.resize(static_cast<size_t>(plan_.max_tokens * plan_.n_kv_heads));
  partial_sums_ = Pages(static_cast<uint64_t>(partial_stride_ * n_threads) * sizeof(int32_t));
  candidates_ = Pages(has_select_ ? static_cast<uint64_t>(plan_.max_outputs * round_up(max_top_k_, 16)) * 8 : 0);
  workers_ = std::vector<Worker>(static_cast<size_t>(n_threads));
  for (Worker& w : workers_) w.tallies.resize(counters_.size());
}

void Executor::bind_residents(std::span<const std::span<const uint8_t>> residents) {
  if (residents.size() != plan_.residents.size()) {
    throw std::invalid_argument("residents: expected " + std::to_string(plan_.residents.size()) + ", got " +
                                std::to_string(residents.size()));
  }
  for (size_t i = 0; i < residents.size(); ++i) {
    const ResidentSpec& spec = plan_.residents[i];
    if (residents[i].size() != spec.nbytes) {
      throw std::invalid_argument("resident " + std::to_string(i) + ": expected " + std::to_string(spec.nbytes) + " bytes, got " +
                                  std::to_string(residents[i].size()));
    }
    if (reinterpret_cast<uintptr_t>(residents[i].data()) % element_alignment(spec.layout) != 0) {
      throw std::invalid_argument("resident " + std::to_string(i) + ": not aligned to its elements");
    }
    residents_.push_back({residents[i].data(), spec.rows, spec.cols, static_cast<int64_t>(spec.nbytes)});
  }
}

void Executor::prepare() {
  prepared_.reserve(plan_.steps.size());
  uint64_t planes = 0;
  for (size_t i = 0, chain = 0; i < plan_.steps.size(); ++i) {
    const StepSpec& spec = plan_.steps[i];
    const std::string_view name = spec.rule->name;
    const Role role = role_of(name);
    prepared_.push_back({{}, {}, counters_.size(), can_follow_freely(chain, i), role});
    if (!prepared_.back().follows_freely) chain = i;
    has_select_ |= role == Role::select;
    has_screen_ |= role == Role::screened_head;
    if (role == Role::full_head) last_projection_ = i;
    if (role == Role::tail) tail_ = i;
    if (name == "rescore") planes_are_smaller_ = planes < plan_.residents[spec.choices[0].residents[0]].nbytes;
    if (name == "screen") planes = plan_.residents[spec.choices[0].residents[0]].nbytes;
    if (spec.rule->units == Units::row_heads) {
      const int64_t group = spec.ints[1] / spec.ints[2];
      part_floats_ = std::max(part_floats_, round_up(group * (round_up(plan_.head_dim, kLanes) + 2), kLanes));
    }
    Call call{};
    for (size_t j = 0; j < spec.inputs.size(); ++j) call.in[j] = operand(spec.inputs[j]);
    for (size_t j = 0; j < spec.outputs.size(); ++j) call.out[j] = operand(spec.outputs[j]);
    call.ints = spec.ints.data();
    call.floats = spec.floats.data();
    call.kv_block = static_cast<int32_t>(plan_.kv_block);
    if (spec.rule->cache != CacheKind::none) call.kv = kv(spec.ints[0]);
    for (size_t c = 0; c < spec.choices.size(); ++c) bind_kernel(i, c, call);
  }
}

void Executor::bind_kernel(size_t step, size_t choice, Call call) {
  const StepSpec& spec = plan_.steps[step];
  const ChoiceSpec& chosen = spec.choices[choice];
  const Kernel* kernel = find_kernel(chosen.kernel);
  if (kernel == nullptr) throw std::invalid_argument(at_step(step, spec) + "kernel " + chosen.kernel + " does not run here");
  const int64_t capacity = plan_.capacity(spec.domain);
  const int64_t last = chosen.t_max == 0 ? capacity : std::min(chosen.t_max, capacity);
  const std::string layout = chosen.residents.empty() ? "none" : plan_.residents[chosen.residents[0]].layout;
  if (spec.rule->name != std::string_view(kernel->op) || layout != kernel->layout || chosen.t_min < kernel->t_min ||
      (kernel->t_max != 0 && last > kernel->t_max)) {
    throw std::invalid_argument(at_step(step, spec) + "kernel " + chosen.kernel + " is for another op, layout or T");
  }
  for (size_t j = 0; j < chosen.residents.size(); ++j) call.weights[j] = residents_[chosen.residents[j]];
  if (layout == "i2s_columns") {
    partial_stride_ = std::max(partial_stride_, round_up(call.weights[0].rows, kColumnRows) + kLanes);
  }
  prepared_[step].calls.push_back(call);
  prepared_[step].kernels.push_back(kernel);
  counters_.push_back({static_cast<int64_t>(step), static_cast<int64_t>(choice), 0, 0, 0, 0, 0});
}

Operand Executor::operand(const OperandSpec& spec) const {
  const BufferSpec& b = plan_.buffers[spec.buffer];
  return {arena_.data() + b.offset + spec.column * dtype_bytes(b.dtype), b.width};
}

// A chain of row steps of one domain can be one loop over rows, provided that what a step writes of one row lies nowhere where the
// chain reads or writes another: two of its buffers may share arena only if neither is written.
bool Executor::can_follow_freely(size_t first, size_t step) const {
  const StepSpec& now = plan_.steps[step];
  if (step == 0 || now.rule->units != Units::rows || plan_.steps[first].rule->units != Units::rows) return false;
  const auto collide = [&](const OperandSpec& a, const OperandSpec& b) {
    if (a.buffer == b.buffer) return false;
    const BufferSpec &x = plan_.buffers[a.buffer], &y = plan_.buffers[b.buffer];
    const auto end = [&](const BufferSpec& s) {
      return s.offset + static_cast<uint64_t>(s.width * dtype_bytes(s.dtype) * plan_.capacity(s.domain));
    };
    return x.offset < end(y) && y.offset < end(x);
  };
  const auto any = [&](const std::vector<OperandSpec>& left, const std::vector<OperandSpec>& right) {
    return std::any_of(left.begin(), left.end(), [&](const OperandSpec& a) {
      return std::any_of(right.begin(), right.end(), [&](const OperandSpec& b) { return collide(a, b); });
    });
  };
  for (size_t i = first; i < step; ++i) {
    const StepSpec& before = plan_.steps[i];
    if (before.domain != now.domain) return false;
    if (any(now.outputs, before.inputs) || any(now.outputs, before.outputs) || any(now.inputs, before.outputs)) return false;
  }
  // output_rows gathers rows: those of its input, which is of the other domain, must be there.
  return std::all_of(now.inputs.begin(), now.inputs.end(),
                     [&](const OperandSpec& o) { return plan_.buffers[o.buffer].domain == now.domain; });
}

KvLayer Executor::kv(int64_t layer) const {
  uint8_t* keys = cache_.data() + layer * 2 * kv_half_;
  return {keys, keys + kv_half_};
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
  } while (i < prepared_.size() && prepared_[i].follows_freely);
  return i;
}

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

}  // namespace

Division Executor::divide(size_t step) const {
  const StepSpec& spec = plan_.steps[step];
  const int64_t n_workers = pool_->size(), t = rows(spec);
  // What a kernel gathers it has to ask for ahead: few long ranges, each of which begins with a wait.
  const std::string_view layout = prepared_[step].kernels[choose(step)]->layout;
  const auto gathered = [&](int64_t n, int64_t align) {
    return Division{n, round_up(std::max(n / (n_workers * 2), int64_t{1}), align), align, true};
  };
  if (layout == "i2s_columns") return gathered(spec.ints[0], kLanes);
  if (layout == "i2_s" && spec.rule->units == Units::panels) return gathered((spec.ints[1] + kPanelRows - 1) / kPanelRows, 1);
  const auto streamed = [&](int64_t n) { return stream(n, n_workers); };
  switch (spec.rule->units) {
    case Units::rows:
      // Below two rows the others' help costs more than it saves; of few rows at a time a chain's steps find each other's in cache.
      return {t, std::clamp(t / (n_workers * 4), int64_t{2}, int64_t{together_.size() > 1 ? 4 : 16})};
    case Units::vocab_groups:
      return streamed((plan_.vocab_size + kPanelRows - 1) / kPanelRows);
    case Units::panels: {
      const int64_t n = (spec.ints[1] + kPanelRows - 1) / kPanelRows;
      if (t == 1) return streamed(n);
      return {n, std::clamp(round_up(n / (n_workers * 4), 2), int64_t{2}, int64_t{32}), 2, true};
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
  prepared.kernels[choice]->run(call, begin, end, work);
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
  commitment_.finish(static_cast<int64_t>(request_->tokens.size()), request_->trace, *pool_);
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
  const int64_t nbytes = plan_.kv_block_bytes();
  for (int64_t layer = 0; layer < plan_.n_kv_layers; ++layer) {
    const KvLayer cache = kv(layer);
    for (uint8_t* half : {cache.keys, cache.values}) {
      std::memcpy(half + target * nbytes, half + source * nbytes, static_cast<size_t>(nbytes));
    }
  }
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
