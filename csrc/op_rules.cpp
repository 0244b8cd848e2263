#include "op_rules.h"

#include <cmath>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "kernel.h"

namespace tritium {

namespace {

[[noreturn]] void fail(const StepSpec& step, const std::string& what) {
  throw std::invalid_argument(std::string("plan: ") + step.rule->name + ": " + what);
}

void demand(bool holds, const StepSpec& step, const char* what) {
  if (!holds) fail(step, std::string("expected ") + what);
}


// Kernels read and write whole vectors: the columns up to the next multiple of 64 bytes must be there.
void demand_width(const PlanSpec& plan, const StepSpec& step, const OperandSpec& operand, int64_t columns) {
  const BufferSpec& b = plan.buffers[operand.buffer];
  const int64_t needed = round_up(columns, 64 / dtype_bytes(b.dtype));
  if (needed > b.width - operand.column) {
    fail(step, "buffer " + std::to_string(operand.buffer) + " from column " + std::to_string(operand.column) + ": expected " +
                   std::to_string(needed) + " columns, got " + std::to_string(b.width - operand.column));
  }
}

int64_t positive(const StepSpec& step, size_t i, const char* what) {
  demand(step.ints[i] > 0, step, what);
  return step.ints[i];
}

template <class F>
void for_each_resident(const PlanSpec& plan, const StepSpec& step, F check) {
  for (const ChoiceSpec& choice : step.choices) {
    for (uint32_t r : choice.residents) check(plan.residents[r]);
  }
}

void check_table(const PlanSpec& plan, const StepSpec& step) {
  const int64_t k = positive(step, 0, "k above 0"), vocab = positive(step, 1, "vocab above 0");
  demand(vocab == plan.vocab_size, step, "the plan's vocab_size");
  for_each_resident(plan, step, [&](const ResidentSpec& r) {
    demand(r.rows == vocab && r.cols == k, step, "a weight of vocab rows and k columns");
  });
}

void check_embedding(const PlanSpec& plan, const StepSpec& step) {
  check_table(plan, step);
  demand(step.domain == Domain::tokens, step, "an output of the domain tokens");
  demand_width(plan, step, step.outputs[0], step.ints[0]);
}

void check_gamma(const PlanSpec& plan, const StepSpec& step) {
  demand(std::isfinite(step.floats[0]) && step.floats[0] >= 0, step, "a finite eps of at least 0");
  for_each_resident(plan, step, [&](const ResidentSpec& r) {
    demand(r.layout == "f32" && r.rows * r.cols == step.ints[0], step, "k weights of layout f32");
  });
}

void check_row_widths(const PlanSpec& plan, const StepSpec& step) {
  const int64_t k = positive(step, 0, "k above 0");
  for (const OperandSpec& operand : step.inputs) demand_width(plan, step, operand, k);
  demand_width(plan, step, step.outputs[0], k);
}

void check_rmsnorm(const PlanSpec& plan, const StepSpec& step) {
  check_row_widths(plan, step);
  check_gamma(plan, step);
}

void check_quantize(const PlanSpec& plan, const StepSpec& step) {
  check_row_widths(plan, step);
  demand(step.ints[1] == 8, step, "act_bits 8");
}

void check_rmsnorm_quantize(const PlanSpec& plan, const StepSpec& step) {
  check_quantize(plan, step);
  check_gamma(plan, step);
}

void check_linear(const PlanSpec& plan, const StepSpec& step) {
  const int64_t k = positive(step, 0, "k above 0"), n = positive(step, 1, "n above 0");
  demand(k <= kMaxDepth, step, "k below 2^19, for which every kernel's sums fit 32 bits");
  demand((step.ints[2] == 0 || step.ints[2] == kScaleGroup) && step.ints[3] == 8, step, "group 0 or 256, and act_bits 8");
  demand(step.ints[4] == 0 || step.ints[4] == 1, step, "accumulate 0 or 1");
  const bool gated = step.inputs.size() > 2;
  demand(!gated || step.ints[4] == 0, step, "accumulate 0 beside a gate");
  for_each_resident(plan, step, [&](const ResidentSpec& r) {
    const bool sparse = r.layout == "i2s_columns" || (r.layout == "i2_s" && step.ints[4] == 0);
    const bool fits = step.ints[2] == 0 ? sparse || r.layout == "i2s" || r.layout == "tq1" : r.layout == "i2s_groups";
    demand(fits, step, "a ternary layout that it can read");
    demand(r.cols == k && r.rows == (sparse ? n : round_up(n, kPanelRows)), step, "a weight of k columns, panels whole");
    demand(r.layout != "tq1" || k <= kMaxTritDepth, step, "k of at most 2^16 in tq1, whose panels fit the scratch memory");
    demand(!sparse || (k <= kMaxSparse && n <= kMaxSparse), step, "k and n below 2^17, for which sums fit 32 bits");
  });
  demand_width(plan, step, step.inputs[0], k);
  if (gated) demand_width(plan, step, step.inputs[2], n);
  demand_width(plan, step, step.outputs[0], round_up(n, kPanelRows));
}

int64_t check_heads(const PlanSpec& plan, const StepSpec& step) {
  demand(step.domain == Domain::tokens, step, "the domain tokens");
  demand(step.ints[0] >= 0 && step.ints[0] < plan.n_kv_layers, step, "a layer of the cache");
  const int64_t n_heads = positive(step, 1, "n_heads above 0"), n_kv_heads = positive(step, 2, "n_kv_heads above 0");
  demand(n_heads <= 65536 && n_heads % n_kv_heads == 0, step, "n_heads a multiple of n_kv_heads");
  demand(n_kv_heads == plan.n_kv_heads && step.ints[3] == plan.head_dim, step, "n_kv_heads and head_dim of the cache");
  return n_heads * plan.head_dim;
}

void check_rope_kv(const PlanSpec& plan, const StepSpec& step) {
  const int64_t q_width = check_heads(plan, step), kv_width = plan.n_kv_heads * plan.head_dim;
  demand(step.ints[4] == 0 || step.ints[4] == 1, step, "interleaved 0 or 1");
  demand_width(plan, step, step.inputs[0], q_width);
  demand_width(plan, step, step.inputs[1], kv_width);
  demand_width(plan, step, step.inputs[2], kv_width);
  demand_width(plan, step, step.outputs[0], q_width);
  for_each_resident(plan, step, [&](const ResidentSpec& r) {
    demand(r.layout == "f32" && r.rows >= plan.max_context && r.cols == plan.head_dim / 2, step,
           "tables of max_context rows and head_dim/2 columns of layout f32");
  });
}

void check_attention(const PlanSpec& plan, const StepSpec& step) {
  const int64_t width = check_heads(plan, step);
  demand_width(plan, step, step.inputs[0], width);
  demand_width(plan, step, step.outputs[0], width);
}

void check_output_rows(const PlanSpec& plan, const StepSpec& step) {
  check_row_widths(plan, step);
  demand(plan.buffers[step.inputs[0].buffer].domain == Domain::tokens && step.domain == Domain::outputs, step,
         "an input of the domain tokens and an output of the domain outputs");
}

void check_logits_projection(const PlanSpec& plan, const StepSpec& step) {
  check_table(plan, step);
  demand(step.domain == Domain::outputs, step, "the domain outputs");
  demand_width(plan, step, step.inputs[0], step.ints[0]);
  demand_width(plan, step, step.outputs[0], step.ints[1]);
}

void check_select(const PlanSpec& plan, const StepSpec& step) {
  demand(step.ints[0] == plan.vocab_size, step, "the plan's vocab_size");
  demand(step.domain == Domain::outputs, step, "the domain outputs");
  demand_width(plan, step, step.inputs[0], step.ints[0]);
}

void check_screen(const PlanSpec& plan, const StepSpec& step) {
  check_table(plan, step);
  demand(step.ints[0] <= kMaxScreenDepth, step, "k up to 2^16, for which sums fit 32 bits");
  demand(step.domain == Domain::outputs, step, "the domain outputs");
  demand_width(plan, step, step.inputs[0], step.ints[0]);
  for (const OperandSpec& bound : step.outputs) demand_width(plan, step, bound, step.ints[1]);
}

void check_threshold(const PlanSpec& plan, const StepSpec& step) {
  check_table(plan, step);
  demand(step.domain == Domain::outputs, step, "the domain outputs");
  demand_width(plan, step, step.inputs[0], step.ints[0]);
  demand_width(plan, step, step.inputs[1], step.ints[1]);
  demand_width(plan, step, step.outputs[0], 1);
}

void check_refine(const PlanSpec& plan, const StepSpec& step) {
  check_table(plan, step);
  demand(step.ints[0] <= kMaxScreenDepth, step, "k up to 2^16, for which sums fit 32 bits");
  demand(step.domain == Domain::outputs, step, "the domain outputs");
  const OperandSpec &in = step.inputs[0], &out = step.outputs[0];
  demand(in.buffer == out.buffer && in.column == out.column, step, "its output in the place of its first input");
  demand_width(plan, step, step.inputs[0], step.ints[1]);
  demand_width(plan, step, step.inputs[1], step.ints[0]);
  demand_width(plan, step, step.inputs[2], step.ints[1]);
  demand_width(plan, step, step.inputs[3], 1);
}

void check_rescore(const PlanSpec& plan, const StepSpec& step) {
  check_table(plan, step);
  demand(step.domain == Domain::outputs, step, "the domain outputs");
  demand_width(plan, step, step.inputs[0], step.ints[0]);
  demand_width(plan, step, step.inputs[1], step.ints[1]);
  demand_width(plan, step, step.inputs[2], 1);
  demand_width(plan, step, step.outputs[0], step.ints[1]);
}

void check_tail(const PlanSpec& plan, const StepSpec& step) {
  demand(step.ints[0] == plan.vocab_size, step, "the plan's vocab_size");
  demand(step.domain == Domain::outputs, step, "the domain outputs");
  for (size_t i : {0, 1}) demand_width(plan, step, step.inputs[i], step.ints[0]);
  for (size_t i : {2, 3, 4}) demand_width(plan, step, step.inputs[i], 1);
  demand_width(plan, step, step.outputs[0], 3);
}

constexpr OpRule kRules[] = {
    {"embedding", "", "f", 2, 0, 1, Units::rows, CacheKind::none, check_embedding},
    {"rmsnorm", "f", "f", 1, 1, 1, Units::rows, CacheKind::none, check_rmsnorm},
    {"quantize", "f", "qf", 2, 0, 0, Units::rows, CacheKind::none, check_quantize},
    {"linear", "qfF", "f", 5, 0, 1, Units::panels, CacheKind::none, check_linear},
    {"rope_kv", "fff", "f", 5, 0, 2, Units::rows, CacheKind::f16, check_rope_kv},
    {"attention", "f", "f", 4, 0, 0, Units::row_heads, CacheKind::f16, check_attention},
    {"rope_kv_int8", "fff", "f", 5, 0, 2, Units::rows, CacheKind::int8, check_rope_kv},
    {"attention_int8", "f", "f", 4, 0, 0, Units::row_heads, CacheKind::int8, check_attention},
    {"relu2_mul", "ff", "f", 1, 0, 0, Units::rows, CacheKind::none, check_row_widths},
    {"silu_mul", "ff", "f", 1, 0, 0, Units::rows, CacheKind::none, check_row_widths},
    {"output_rows", "f", "f", 1, 0, 0, Units::rows, CacheKind::none, check_output_rows},
    {"logits_projection", "f", "f", 2, 0, 1, Units::vocab_groups, CacheKind::none, check_logits_projection},
    {"select", "f", "if", 1, 0, 0, Units::rows, CacheKind::none, check_select},
    {"screen", "f", "ff", 2, 0, 1, Units::vocab_groups, CacheKind::none, check_screen},
    {"threshold", "ff", "f", 2, 0, 1, Units::rows, CacheKind::none, check_threshold},
    {"refine", "ffff", "f", 2, 0, 1, Units::vocab_groups, CacheKind::none, check_refine},
    {"tail", "fffif", "f", 1, 0, 0, Units::rows, CacheKind::none, check_tail},
    {"rescore", "fff", "f", 2, 0, 1, Units::vocab_groups, CacheKind::none, check_rescore},
    {"rmsnorm_quantize", "f", "qf", 2, 1, 1, Units::rows, CacheKind::none, check_rmsnorm_quantize},
};

static_assert(sizeof(kRules) / sizeof(kRules[0]) > 0 && kMaxOperands >= 5 && kMaxResidents >= 2);

Dtype dtype_of(char letter) { return letter == 'q' ? Dtype::i8 : letter == 'i' ? Dtype::i32 : Dtype::f32; }

void check_operands(const PlanSpec& plan, const StepSpec& step, const std::vector<OperandSpec>& operands, const char* letters) {
  for (size_t i = 0; i < operands.size(); ++i) {
    const BufferSpec& b = plan.buffers[operands[i].buffer];
    demand(b.dtype == dtype_of(letters[i]), step, "another dtype of an operand");
    const bool gathers = std::strcmp(step.rule->name, "output_rows") == 0 && &operands == &step.inputs;
    demand(gathers || b.domain == step.domain, step, "operands of one domain");
  }
}

}  // namespace

const OpRule* find_op_rule(std::string_view name) {
  for (const OpRule& rule : kRules) {
    if (name == rule.name) return &rule;
  }
  return nullptr;
}

size_t least_inputs(const OpRule& rule) { return std::strcspn(rule.inputs, "F"); }

void check_step(const PlanSpec& plan, const StepSpec& step) {
  check_operands(plan, step, step.inputs, step.rule->inputs);
  check_operands(plan, step, step.outputs, step.rule->outputs);
  step.rule->check(plan, step);
}

}  // namespace tritium
