// What each op demands of a step: operands, attributes, widths, weights. The order of attributes is that of src/tritium/ops.py.
#pragma once

#include <string_view>

#include "plan.h"

namespace tritium {

// What an op's work is counted in. The executor divides it among workers.
enum class Units {
  rows,
  panels,       // of 16 weight rows
  row_heads,    // rows of one slot and a key-value head, perhaps one split of their keys
  vocab_groups  // of 16 vocabulary rows
};

struct OpRule {
  const char* name;
  const char* inputs;   // a letter an operand: f f32, q i8, i i32; F an f32 that may be left out
  const char* outputs;
  size_t n_ints;
  size_t n_floats;
  size_t n_residents;
  Units units;
  CacheKind cache;  // of the layer that its first attribute names
  void (*check)(const PlanSpec& plan, const StepSpec& step);
};

const OpRule* find_op_rule(std::string_view name);

// Inputs that a step must have; those behind them may be left out.
size_t least_inputs(const OpRule& rule);

// Checks operands and attributes of a parsed step by its rule. Throws std::invalid_argument.
void check_step(const PlanSpec& plan, const StepSpec& step);

}  // namespace tritium
