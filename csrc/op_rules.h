// What each op demands of a step: operands, attributes, widths, weights. The order of attributes is that of src/tritium/ops.py.
#pragma once

#include <string_view>

#include "plan.h"

namespace tritium {

// How an op's work is counted off and handed to workers.
enum class Units {
  rows,         // contiguous ranges of rows, the same for every such step
  panels,       // of 16 weight rows: contiguous ranges at T = 1, else by demand
  row_heads,    // row · n_kv_heads + kv_head, by demand: a row's cost grows with its position
  vocab_groups  // of 16 vocabulary rows, contiguous ranges
};

struct OpRule {
  const char* name;
  const char* inputs;   // a letter an operand: f f32, q i8, i i32
  const char* outputs;
  size_t n_ints;
  size_t n_floats;
  size_t n_residents;
  Units units;
  bool uses_cache;  // of the layer that its first attribute names
  void (*check)(const PlanSpec& plan, const StepSpec& step);
};

const OpRule* find_op_rule(std::string_view name);

// Checks operands and attributes of a parsed step by its rule. Throws std::invalid_argument.
void check_step(const PlanSpec& plan, const StepSpec& step);

}  // namespace tritium
