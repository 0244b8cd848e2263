// What an executor does once: take its plan and its weights, choose kernels, lay out what steps need.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "executor.h"
#include "op_rules.h"
#include "registry.h"

namespace tritium {

namespace {

constexpr int64_t kMaxTopK = 1024;

uint64_t element_alignment(const std::string& layout) { return layout == "f32" || layout == "tq1" || layout.starts_with("i2") ? 4 : 2; }

std::string at_step(size_t step, const StepSpec& spec) { return "step " + std::to_string(step) + " (" + spec.rule->name + "): "; }

}  // namespace

Executor::Executor(PlanSpec plan, std::span<const std::span<const uint8_t>> residents, int64_t kv_blocks, int n_threads)
    : plan_(std::move(plan)), kv_blocks_(kv_blocks), max_top_k_(std::min(kMaxTopK, plan_.vocab_size)), commitment_(plan_) {
  if (kv_blocks < 0 || kv_blocks > (int64_t{1} << 24) || (kv_blocks == 0 && plan_.n_kv_layers > 0)) {
    throw std::invalid_argument("kv_blocks: expected 1 to 2^24, got " + std::to_string(kv_blocks));
  }
  pool_ = std::make_unique<ThreadPool>(n_threads);
  mutex_ = std::make_unique<std::mutex>();
  arena_ = Pages(plan_.arena_bytes, PageSize::huge);
  kv_half_ = round_up(plan_.kv_block_bytes(), kAlignment);
  const __int128 cache = static_cast<__int128>(kv_blocks) * kv_half_ * 2 * plan_.n_kv_layers;
  if (cache > (__int128{1} << 46)) throw std::invalid_argument("kv_blocks: the cache would take over 2^46 bytes");
  cache_ = Pages(static_cast<uint64_t>(cache) + kAlignment, PageSize::huge);
  bind_residents(residents);
  prepare();
  scratch_ = Pages(static_cast<uint64_t>(kScratchFloats * n_threads) * sizeof(float));
  const int64_t splits = round_up(plan_.max_context, kAttentionSplit) / kAttentionSplit;
  const __int128 parts = static_cast<__int128>(plan_.max_tokens) * plan_.n_kv_heads * splits * part_floats_;
  parts_ = Pages(static_cast<uint64_t>(std::min<__int128>(parts, kMostPartFloats)) * sizeof(float));
  arrivals_.resize(static_cast<size_t>(plan_.max_tokens * plan_.n_kv_heads));
  partial_sums_ = Pages(static_cast<uint64_t>(partial_stride_ * kColumnTokens * n_threads) * sizeof(int32_t));
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
    prepared_.push_back({{}, {}, counters_.size(), can_follow_freely(chain, i), can_follow_by_panels(i), role});
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

bool Executor::overlap(const OperandSpec& a, const OperandSpec& b) const {
  const BufferSpec &x = plan_.buffers[a.buffer], &y = plan_.buffers[b.buffer];
  const auto end = [&](const BufferSpec& s) {
    return s.offset + static_cast<uint64_t>(s.width * dtype_bytes(s.dtype) * plan_.capacity(s.domain));
  };
  return x.offset < end(y) && y.offset < end(x);
}

// A chain of row steps of one domain can be one loop over rows, provided that what a step writes of one row lies nowhere where the
// chain reads or writes another: two of its buffers may share arena only if neither is written.
bool Executor::can_follow_freely(size_t first, size_t step) const {
  const StepSpec& now = plan_.steps[step];
  if (step == 0 || now.rule->units != Units::rows || plan_.steps[first].rule->units != Units::rows) return false;
  const auto collide = [&](const OperandSpec& a, const OperandSpec& b) { return a.buffer != b.buffer && overlap(a, b); };
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

// The gate of a product is made by the step ahead of it, and a panel's rows need the gates of that panel alone. Otherwise neither step
// may write where the other reads or writes.
bool Executor::can_follow_by_panels(size_t step) const {
  const StepSpec& now = plan_.steps[step];
  if (step == 0 || now.rule->units != Units::panels || now.inputs.size() < 3) return false;
  const StepSpec& before = plan_.steps[step - 1];
  const OperandSpec &made = before.outputs[0], &gate = now.inputs[2];
  const bool is_made = before.rule == now.rule && before.domain == now.domain && before.inputs.size() == 2 &&
                       before.ints[1] == now.ints[1] && made.buffer == gate.buffer && made.column == gate.column;
  const auto is_apart = [&](const OperandSpec& written, const OperandSpec& other) { return !overlap(written, other); };
  return is_made && is_apart(now.outputs[0], made) && is_apart(now.outputs[0], before.inputs[0]) &&
         is_apart(now.outputs[0], before.inputs[1]) && is_apart(made, now.inputs[0]) && is_apart(made, now.inputs[1]);
}

KvLayer Executor::kv(int64_t layer) const {
  uint8_t* keys = cache_.data() + layer * 2 * kv_half_;
  return {keys, keys + kv_half_, kv_half_ * 2 * plan_.n_kv_layers};
}

}  // namespace tritium
