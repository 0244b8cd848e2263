#include "commitment.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "op_rules.h"

namespace tritium {

namespace {

std::span<const uint8_t> bytes_of(const void* data, int64_t size) {
  return {static_cast<const uint8_t*>(data), static_cast<size_t>(size)};
}

}  // namespace

Commitment::Commitment(const PlanSpec& plan) : sites_(plan.steps.size()) {
  const OperandSpec* head = nullptr;
  std::vector<Site> rows;  // of a token
  for (const StepSpec& step : plan.steps) {
    if (step.rule->name == std::string_view("logits_projection")) head = &step.inputs[0];
  }
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const StepSpec& step = plan.steps[i];
    const std::string_view op = step.rule->name;
    Site& site = sites_[i];
    if ((op == "quantize" || op == "rmsnorm_quantize") && step.domain == Domain::tokens) {
      site.index = n_sites_++;
      site.bytes = step.ints[0] * dtype_bytes(plan.buffers[step.outputs[0].buffer].dtype);
      site.offset = row_bytes_;
      row_bytes_ += site.bytes + static_cast<int64_t>(sizeof(float));
      rows.push_back(site);
    } else if (op == "rmsnorm" && step.domain == Domain::outputs && head != nullptr && step.outputs[0].buffer == head->buffer) {
      site.is_hidden = true;
      site.bytes = step.ints[0] * static_cast<int64_t>(sizeof(float));
    }
  }
  digests_ = Pages(static_cast<uint64_t>(plan.max_tokens * n_sites_) * kDigestBytes);
  kept_ = Pages(static_cast<uint64_t>(kKeptTokens * row_bytes_));
  std::stable_sort(rows.begin(), rows.end(), [](const Site& a, const Site& b) { return a.bytes > b.bytes; });
  for (int64_t t = 0; t < kKeptTokens; ++t) {
    for (const Site& site : rows) {
      const uint8_t* row = kept_.data() + t * row_bytes_ + site.offset;
      kept_rows_.push_back({bytes_of(row, site.bytes + static_cast<int64_t>(sizeof(float))), {}, digest(t, site.index)});
    }
  }
  for (int64_t t = 0; t < plan.max_tokens; ++t) {
    columns_.push_back({bytes_of(digest(t, 0), n_sites_ * static_cast<int64_t>(kDigestBytes)), {}, nullptr});
  }
}

void Commitment::take(size_t step, const Call& call, int64_t begin, int64_t end, const TraceView& view) {
  const Site& site = sites_[step];
  if (site.is_hidden && view.hidden != nullptr) {
    for (int64_t r = begin; r < end; ++r) {
      Sha256 hash;
      hash.update(bytes_of(call.out[0].row<float>(r), site.bytes));
      hash.finish(view.hidden + static_cast<size_t>(r) * kDigestBytes);
    }
  }
  if (site.index < 0 || view.columns == nullptr) return;
  constexpr int64_t kAtOnce = 16;
  std::array<Sha256Job, kAtOnce> jobs;
  int64_t n = 0;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t width = site.bytes / call.ints[0];  // bytes of a code
    const uint8_t* codes = static_cast<const uint8_t*>(call.out[0].data) + r * call.out[0].stride * width;
    const float* scale = call.out[1].row<float>(r);
    const auto copy = [&](uint8_t* to) {
      std::memcpy(to + site.offset, codes, static_cast<size_t>(site.bytes));
      std::memcpy(to + site.offset + site.bytes, scale, sizeof *scale);
    };
    if (view.rows != nullptr) copy(view.rows + r * row_bytes_);
    if (call.t <= kKeptTokens) {
      copy(kept_.data() + r * row_bytes_);
      continue;
    }
    jobs[static_cast<size_t>(n++)] = {bytes_of(codes, site.bytes), bytes_of(scale, sizeof *scale), digest(r, site.index)};
    if (n == kAtOnce || r + 1 == end) sha256_each(std::span(jobs).first(static_cast<size_t>(std::exchange(n, 0))));
  }
}

double Commitment::share(size_t step) const {
  const Site& site = sites_[step];
  return site.index < 0 ? 0 : static_cast<double>(site.bytes + static_cast<int64_t>(sizeof(float))) / static_cast<double>(row_bytes_);
}

void Commitment::finish(int64_t n, const TraceView& view, ThreadPool& pool) {
  if (view.columns == nullptr) return;
  if (n <= kKeptTokens) sha256_each(std::span(kept_rows_).first(static_cast<size_t>(n * n_sites_)), pool);
  const auto columns = std::span(columns_).first(static_cast<size_t>(n));
  for (size_t t = 0; t < columns.size(); ++t) columns[t].digest = view.columns + t * kDigestBytes;
  sha256_each(columns, pool);
}

}  // namespace tritium
