#include "plan.h"

#include <bit>
#include <cstring>
#include <stdexcept>

#include "kernel.h"
#include "op_rules.h"
#include "platform.h"

static_assert(std::endian::native == std::endian::little, "plans and weights are little-endian");

namespace tritium {

namespace {

constexpr char kMagic[] = "TRITPLAN";
constexpr uint32_t kVersion = 1;

// Far above any model, low enough that no product of a row's width, a capacity and an element's size leaves 64 bits.
constexpr uint64_t kMaxRows = uint64_t{1} << 24;
constexpr uint64_t kMaxWidth = uint64_t{1} << 28;
constexpr uint64_t kMaxBytes = uint64_t{1} << 46;

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("plan: " + what); }

class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  std::string name() {
    const size_t n = number<uint8_t>();
    const uint8_t* text = take(n);
    for (size_t i = 0; i < n; ++i) {
      if (text[i] < 0x21 || text[i] > 0x7e) fail("a name that is not printable ASCII, byte " + std::to_string(at_ - n + i));
    }
    return std::string(reinterpret_cast<const char*>(text), n);
  }

  // Checked before anything is reserved: each of the items takes at least item_bytes of what is left.
  size_t count(uint64_t n, size_t item_bytes, const char* what) {
    if (n > (bytes_.size() - at_) / item_bytes) fail(std::to_string(n) + " " + what + " do not fit its bytes");
    return static_cast<size_t>(n);
  }

  const uint8_t* take(size_t n) {
    if (n > bytes_.size() - at_) fail("ends at byte " + std::to_string(bytes_.size()) + " in the middle of a field");
    const uint8_t* p = bytes_.data() + at_;
    at_ += n;
    return p;
  }

  size_t at() const { return at_; }

 private:
  std::span<const uint8_t> bytes_;
  size_t at_ = 0;
};

int64_t bounded(uint64_t value, uint64_t least, uint64_t greatest, const char* what) {
  if (value < least || value > greatest) {
    fail(std::string(what) + ": expected " + std::to_string(least) + " to " + std::to_string(greatest) + ", got " +
         std::to_string(value));
  }
  return static_cast<int64_t>(value);
}

BufferSpec read_buffer(Reader& in, const PlanSpec& plan) {
  const auto dtype = in.number<uint8_t>(), domain = in.number<uint8_t>();
  const auto zero = in.number<uint16_t>();
  const auto width = in.number<uint32_t>();
  const auto offset = in.number<uint64_t>();
  if (dtype > 3 || domain > 1 || zero != 0) fail("unknown dtype or domain of a buffer");
  BufferSpec b{static_cast<Dtype>(dtype), static_cast<Domain>(domain), bounded(width, 1, kMaxWidth, "buffer width"), offset};
  const uint64_t row = static_cast<uint64_t>(b.width * dtype_bytes(b.dtype));
  if (row % kAlignment != 0 || offset % kAlignment != 0) fail("a buffer's rows or offset are not multiples of 64 bytes");
  const uint64_t size = row * static_cast<uint64_t>(plan.capacity(b.domain));
  if (offset > plan.arena_bytes || size > plan.arena_bytes - offset) fail("a buffer reaches past the arena");
  return b;
}

ResidentSpec read_resident(Reader& in) {
  ResidentSpec r;
  r.rows = bounded(in.number<uint32_t>(), 1, kMaxWidth, "resident rows");
  r.cols = bounded(in.number<uint32_t>(), 1, kMaxWidth, "resident columns");
  r.nbytes = in.number<uint64_t>();
  r.layout = in.name();
  const uint64_t expected = resident_bytes(r.layout, r.rows, r.cols);
  if (expected == 0) {
    fail("layout " + r.layout + " cannot hold " + std::to_string(r.rows) + " x " + std::to_string(r.cols));
  }
  if (r.nbytes != expected) {
    fail("resident of layout " + r.layout + ", " + std::to_string(r.rows) + " x " + std::to_string(r.cols) + ": expected " +
         std::to_string(expected) + " bytes, got " + std::to_string(r.nbytes));
  }
  return r;
}

std::vector<OperandSpec> read_operands(Reader& in, size_t n, const PlanSpec& plan) {
  std::vector<OperandSpec> operands;
  for (size_t i = 0; i < n; ++i) {
    const auto buffer = in.number<uint32_t>(), column = in.number<uint32_t>();
    if (buffer >= plan.buffers.size()) fail("buffer " + std::to_string(buffer) + " does not exist");
    const BufferSpec& b = plan.buffers[buffer];
    if (column >= b.width || column * dtype_bytes(b.dtype) % static_cast<int64_t>(kAlignment) != 0) {
      fail("column " + std::to_string(column) + " of buffer " + std::to_string(buffer) + " is out of range or not on 64 bytes");
    }
    operands.push_back({buffer, column});
  }
  return operands;
}

ChoiceSpec read_choice(Reader& in, const PlanSpec& plan, const OpRule& rule) {
  ChoiceSpec c;
  c.kernel = in.name();
  c.t_min = in.number<uint32_t>();
  c.t_max = in.number<uint32_t>();
  if (c.t_min < 1 || (c.t_max != 0 && c.t_max < c.t_min)) fail("kernel " + c.kernel + ": an empty range of T");
  const size_t n = in.number<uint8_t>();
  if (n != rule.n_residents) {
    fail("kernel " + c.kernel + ": expected " + std::to_string(rule.n_residents) + " residents, got " + std::to_string(n));
  }
  for (size_t i = 0; i < n; ++i) {
    c.residents.push_back(in.number<uint32_t>());
    if (c.residents.back() >= plan.residents.size()) fail("resident " + std::to_string(c.residents.back()) + " does not exist");
  }
  return c;
}

// Every T that a step can have must find a kernel.
void check_coverage(const StepSpec& step, int64_t capacity) {
  for (int64_t t = 1; t <= capacity;) {
    int64_t next = 0;
    for (const ChoiceSpec& c : step.choices) {
      if (c.t_min <= t && (c.t_max == 0 || t <= c.t_max)) {
        next = c.t_max == 0 ? capacity + 1 : c.t_max + 1;
        break;
      }
    }
    if (next == 0) fail("no kernel for T = " + std::to_string(t));
    t = next;
  }
}

StepSpec read_step(Reader& in, const PlanSpec& plan) {
  StepSpec s;
  const std::string op = in.name();
  s.rule = find_op_rule(op);
  if (s.rule == nullptr) fail("unknown op '" + op + "'");
  const size_t n_inputs = in.number<uint8_t>(), n_outputs = in.number<uint8_t>(), n_ints = in.number<uint8_t>();
  const size_t n_floats = in.number<uint8_t>(), n_choices = in.number<uint8_t>();
  if (n_inputs < least_inputs(*s.rule) || n_inputs > std::strlen(s.rule->inputs) || n_outputs != std::strlen(s.rule->outputs) || n_ints != s.rule->n_ints ||
      n_floats != s.rule->n_floats || n_choices == 0) {
    fail(op + ": a wrong number of operands, attributes or kernels");
  }
  s.inputs = read_operands(in, n_inputs, plan);
  s.outputs = read_operands(in, n_outputs, plan);
  s.domain = plan.buffers[s.outputs[0].buffer].domain;
  for (size_t i = 0; i < n_ints; ++i) s.ints.push_back(in.number<int32_t>());
  for (size_t i = 0; i < n_floats; ++i) s.floats.push_back(in.number<float>());
  for (size_t i = 0; i < n_choices; ++i) s.choices.push_back(read_choice(in, plan, *s.rule));
  check_step(plan, s);
  check_coverage(s, plan.capacity(s.domain));
  return s;
}

void check_cache_shape(const PlanSpec& plan) {
  if (plan.n_kv_layers == 0) return;
  if (plan.kv_block < 16 || kAttentionSplit % plan.kv_block != 0) fail("kv_block: expected 16, 32, 64, 128 or 256");
  if (plan.n_kv_heads < 1 || plan.head_dim < 2 || plan.head_dim % 2 != 0) fail("n_kv_heads or head_dim is out of range");
}

}  // namespace

int64_t dtype_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::i8:
      return 1;
    case Dtype::i16:
      return 2;
    default:
      return 4;
  }
}

int64_t panel_bytes(std::string_view layout, int64_t cols) {
  if (layout == "tq1") return (cols + kTritDepth - 1) / kTritDepth * 256;
  if (layout == "i2s_groups") return cols / kScaleGroup * (kScaleGroup / kPanelDepth * 64 + kPanelRows * int64_t{sizeof(float)});
  return (cols + kPanelDepth - 1) / kPanelDepth * 64;
}

uint64_t resident_bytes(const std::string& layout, int64_t rows, int64_t cols) {
  const uint64_t r = static_cast<uint64_t>(rows), c = static_cast<uint64_t>(cols);
  if (layout == "i2s" || layout == "tq1") {
    const uint64_t panels = r / kPanelRows;
    const uint64_t scales = (panels * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
    return r % kPanelRows == 0 ? panels * static_cast<uint64_t>(panel_bytes(layout, cols)) + scales : 0;
  }
  if (layout == "i2s_groups") {
    const bool fits = r % kPanelRows == 0 && cols % kScaleGroup == 0;
    return fits ? r / kPanelRows * static_cast<uint64_t>(panel_bytes(layout, cols)) : 0;
  }
  if (layout == "i2_s") return c % 128 == 0 ? r * (c / 4) + 32 : 0;
  if (layout == "i2s_columns") return c * ((r + kColumnRows - 1) / kColumnRows) * 64 + 64;
  if (layout == "plane44") return static_cast<uint64_t>(PlaneLayout(rows, cols).nbytes);
  if (layout == "f32") return r * c * 4;
  if (layout == "f16" || layout == "bf16") return r * c * 2;
  if (layout == "q8_0") return c % 32 == 0 ? r * (c / 32) * 34 : 0;
  if (layout == "q6_k") return c % 256 == 0 ? r * (c / 256) * 210 : 0;
  return 0;
}

PlanSpec parse_plan(std::span<const uint8_t> bytes) {
  Reader in(bytes);
  if (std::memcmp(in.take(8), kMagic, 8) != 0) fail("does not begin with TRITPLAN");
  const auto version = in.number<uint32_t>();
  if (version != kVersion) fail("version " + std::to_string(version) + ", this build reads 1");
  const auto n_buffers = in.number<uint32_t>(), n_residents = in.number<uint32_t>(), n_steps = in.number<uint32_t>();
  PlanSpec plan{};
  plan.max_tokens = bounded(in.number<uint32_t>(), 1, kMaxRows, "max_tokens");
  plan.max_outputs = bounded(in.number<uint32_t>(), 1, kMaxRows, "max_outputs");
  plan.max_context = bounded(in.number<uint32_t>(), 1, kMaxRows, "max_context");
  plan.vocab_size = bounded(in.number<uint32_t>(), 1, kMaxRows, "vocab_size");
  plan.n_kv_layers = bounded(in.number<uint32_t>(), 0, 4096, "n_kv_layers");
  plan.n_kv_heads = bounded(in.number<uint32_t>(), 0, 4096, "n_kv_heads");
  plan.head_dim = bounded(in.number<uint32_t>(), 0, 256, "head_dim");
  plan.kv_block = bounded(in.number<uint32_t>(), 0, kAttentionSplit, "kv_block");
  plan.arena_bytes = static_cast<uint64_t>(bounded(in.number<uint64_t>(), 0, kMaxBytes, "arena_bytes"));
  check_cache_shape(plan);

  constexpr size_t kBufferBytes = 16, kLeastResidentBytes = 17, kLeastStepBytes = 6;
  plan.buffers.reserve(in.count(n_buffers, kBufferBytes, "buffers"));
  for (uint32_t i = 0; i < n_buffers; ++i) plan.buffers.push_back(read_buffer(in, plan));
  plan.residents.reserve(in.count(n_residents, kLeastResidentBytes, "residents"));
  for (uint32_t i = 0; i < n_residents; ++i) plan.residents.push_back(read_resident(in));
  plan.steps.reserve(in.count(n_steps, kLeastStepBytes, "steps"));
  for (uint32_t i = 0; i < n_steps; ++i) {
    try {
      plan.steps.push_back(read_step(in, plan));
      const CacheKind cache = plan.steps.back().rule->cache;
      if (cache != CacheKind::none && plan.cache != CacheKind::none && cache != plan.cache) fail("steps with caches of two kinds");
      if (cache != CacheKind::none) plan.cache = cache;
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("step " + std::to_string(i) + ": " + error.what());
    }
  }
  if (in.at() != bytes.size()) fail(std::to_string(bytes.size() - in.at()) + " bytes follow its end");
  return plan;
}

}  // namespace tritium
