// Arbitrary bytes as a binary plan and, after the word STEP, as the arguments of its steps. What parse_plan accepts is run: nothing
// that a plan or a request says may make a kernel touch memory that is not its own.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "executor.h"
#include "plan.h"

namespace {

constexpr std::string_view kSeparator = "STEP";
constexpr uint64_t kMaxBytes = 4 << 20;
constexpr int64_t kMaxRows = 64, kMaxBlocks = 64;
constexpr int kMaxSteps = 3;

// Numbers from the input, zero once it is used up.
class Numbers {
 public:
  explicit Numbers(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return at_ >= bytes_.size(); }
  int64_t byte() { return empty() ? 0 : bytes_[at_++]; }
  int64_t below(int64_t n) { return byte() % n; }
  // A byte, mostly what it says: then a mutated request is often still a good one.
  int32_t number() {
    const int64_t x = byte();
    if (x == 255) return INT32_MAX;
    if (x == 254) return INT32_MIN;
    if (x < 253) return static_cast<int32_t>(x);
    const auto low = static_cast<uint16_t>(byte());
    return static_cast<int16_t>(low | byte() << 8);
  }
  std::vector<int32_t> numbers(int64_t n) {
    std::vector<int32_t> all(static_cast<size_t>(n));
    for (int32_t& x : all) x = number();
    return all;
  }

 private:
  std::span<const uint8_t> bytes_;
  size_t at_ = 0;
};

bool is_small(const tritium::PlanSpec& plan) {
  const int64_t cache = plan.n_kv_layers * plan.n_kv_heads * plan.head_dim * plan.kv_block * kMaxBlocks * 4;
  uint64_t total = plan.arena_bytes + static_cast<uint64_t>(cache);
  if (total > 4 * kMaxBytes || plan.max_outputs * std::min<int64_t>(plan.vocab_size, 1024) > (1 << 20)) return false;
  for (const auto& r : plan.residents) {
    if (r.nbytes > kMaxBytes) return false;
    total += r.nbytes;
  }
  return total <= 4 * kMaxBytes && plan.vocab_size <= (1 << 16);
}

// Weights as their readers let them through: finite numbers, no ternary code 3. In memory of exactly their size.
std::vector<std::vector<uint8_t>> make_residents(const tritium::PlanSpec& plan) {
  std::vector<std::vector<uint8_t>> all;
  for (const auto& r : plan.residents) {
    const uint8_t fill = r.layout.starts_with("i2") ? 0x19 : r.layout == "f32" ? 0x3c : 0x2c;
    all.emplace_back(static_cast<size_t>(r.nbytes), fill);
  }
  return all;
}

void step(tritium::Executor& executor, Numbers& in) {
  const tritium::PlanSpec& plan = executor.plan();
  // One more than is allowed is not.
  const int64_t n_tokens = in.below(std::min(plan.max_tokens, kMaxRows) + 2);
  const int64_t n_outputs = in.below(std::min(plan.max_outputs, kMaxRows) + 2), n_slots = in.below(9), width = in.below(9);
  const int64_t top_k = in.number(), wants = in.byte();
  const bool uneven = wants >= 0xf8;
  const auto tokens = in.numbers(n_tokens), positions = in.numbers(n_tokens - (uneven && n_tokens > 0)), slots = in.numbers(n_tokens);
  const auto tables = in.numbers(n_slots * width), outputs = in.numbers(n_outputs);
  // The arrays that the module checks before it passes them on: (outputs, vocabulary) and (outputs, top_k).
  std::vector<float> logits(wants & 1 ? static_cast<size_t>(n_outputs * plan.vocab_size) : 0);
  const size_t n_candidates = static_cast<size_t>(n_outputs * std::clamp<int64_t>(top_k, 0, 2048));
  std::vector<int32_t> ids(n_candidates);
  std::vector<float> values(n_candidates);
  const tritium::StepRequest request{tokens, positions, slots, tables.data(), n_slots, width, outputs, top_k,
                                     wants & 1 ? logits.data() : nullptr, wants & 2 ? ids.data() : nullptr,
                                     wants & 4 ? values.data() : nullptr};
  try {
    executor.step(request);
  } catch (const std::invalid_argument&) {
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// Every other time only the arguments change: most changes of a plan are refused, and no step would run.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  const size_t cut = std::string_view(reinterpret_cast<const char*>(data), size).rfind(kSeparator);
  const size_t kept = seed % 2 == 0 || cut == std::string_view::npos ? 0 : cut + kSeparator.size();
  return kept + LLVMFuzzerMutate(data + kept, size - kept, max_size - kept);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = std::min(text.rfind(kSeparator), size);
  const std::span<const uint8_t> bytes(data, size);
  Numbers in(bytes.subspan(std::min(size, cut + kSeparator.size())));
  try {
    tritium::PlanSpec plan = tritium::parse_plan(bytes.first(cut));
    if (!is_small(plan)) return 0;
    const auto weights = make_residents(plan);
    const std::vector<std::span<const uint8_t>> spans(weights.begin(), weights.end());
    const int64_t kv_blocks = in.below(kMaxBlocks + 1);
    tritium::Executor executor(std::move(plan), spans, kv_blocks, 1);
    for (int i = 0; i < kMaxSteps && !in.empty(); ++i) step(executor, in);
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
