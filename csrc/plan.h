// A plan as the executor reads it: the binary form of src/tritium/ir.py, parsed and checked. After parse_plan every index is in
// range, every operand lies in the arena and is as wide as its op reads or writes, and every resident's size follows from its shape.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tritium {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct OpRule;

enum class Dtype : uint8_t { f32 = 0, i8 = 1, i32 = 2, i16 = 3 };
enum class Domain : uint8_t { tokens = 0, outputs = 1 };

int64_t dtype_bytes(Dtype dtype);

// How keys and values are kept (kernel.h, KvLayer). A plan's steps agree on it.
enum class CacheKind : uint8_t { none, f16, int8 };

struct BufferSpec {
  Dtype dtype;
  Domain domain;
  int64_t width;
  uint64_t offset;
};

struct ResidentSpec {
  std::string layout;
  int64_t rows;
  int64_t cols;
  uint64_t nbytes;
};

struct OperandSpec {
  uint32_t buffer;
  uint32_t column;
};

struct ChoiceSpec {
  std::string kernel;
  int64_t t_min;
  int64_t t_max;  // 0: unbounded
  std::vector<uint32_t> residents;
};

struct StepSpec {
  const OpRule* rule;
  Domain domain;  // whose rows are the step's T
  std::vector<OperandSpec> inputs;
  std::vector<OperandSpec> outputs;
  std::vector<int32_t> ints;
  std::vector<float> floats;
  std::vector<ChoiceSpec> choices;
};

struct PlanSpec {
  int64_t max_tokens;
  int64_t max_outputs;
  int64_t max_context;
  int64_t vocab_size;
  int64_t n_kv_layers;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t kv_block;
  uint64_t arena_bytes;
  std::vector<BufferSpec> buffers;
  std::vector<ResidentSpec> residents;
  std::vector<StepSpec> steps;
  CacheKind cache = CacheKind::none;

  int64_t capacity(Domain domain) const { return domain == Domain::tokens ? max_tokens : max_outputs; }
  // Of all heads' keys, or values, in a block of one layer.
  int64_t kv_block_bytes() const { return n_kv_heads * kv_block * (cache == CacheKind::int8 ? head_dim + 4 : 2 * head_dim); }
};

// Bytes of a panel of 16 rows, of layout i2s or tq1, without its scale.
int64_t panel_bytes(std::string_view layout, int64_t cols);

// Bytes of a resident, or 0 if the layout is unknown or cannot hold rows of that many columns.
uint64_t resident_bytes(const std::string& layout, int64_t rows, int64_t cols);

// Throws std::invalid_argument, naming the place, when the bytes are not a plan that can run.
PlanSpec parse_plan(std::span<const uint8_t> bytes);

}  // namespace tritium
