// tritium-driver: the core without Python. Runs the programs of a bundle, prints what the executor counted, and writes what the
// steps gave.
#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "driver/bundle.h"
#include "executor.h"
#include "op_rules.h"
#include "registry.h"

namespace tritium {
namespace {

struct Options {
  std::string bundle, output, isa;
  int n_threads = available_cpus();
  bool state = false, list = false;
};

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

const Isa& find_isa(const std::string& name) {
  for (const Isa& isa : instruction_sets()) {
    if (isa.name != name) continue;
    if (!isa.usable()) refuse("instruction set " + name + ": " + isa.status);
    return isa;
  }
  refuse("instruction set " + name + ": unknown");
}

// Name the instruction set's kernels for the same ops, layouts and numbers of rows in place of those that the plan names.
void use_isa(PlanSpec& plan, const Isa& isa) {
  for (StepSpec& step : plan.steps) {
    for (ChoiceSpec& choice : step.choices) {
      const std::string layout = choice.residents.empty() ? "none" : plan.residents[choice.residents[0]].layout;
      const Kernel* found = nullptr;
      for (const Kernel& k : isa.kernels) {
        if (step.rule->name == std::string_view(k.op) && layout == k.layout && k.t_min == choice.t_min && k.t_max == choice.t_max) {
          found = &k;
        }
      }
      if (found == nullptr) refuse(isa.name + " has no kernel in place of " + choice.kernel);
      choice.kernel = found->id;
    }
  }
}

// The arrays of a batch stand one after the other behind its six sizes; temperatures are float32, of each output or of none.
class BatchReader {
 public:
  explicit BatchReader(std::span<const uint8_t> data) : at_(reinterpret_cast<const int32_t*>(data.data())), left_(data.size() / 4) {}

  std::span<const int32_t> take(int64_t n) {
    if (n < 0 || static_cast<uint64_t>(n) > left_) refuse("a batch ends in the middle of an array");
    const std::span<const int32_t> taken(at_, static_cast<size_t>(n));
    at_ += n;
    left_ -= static_cast<uint64_t>(n);
    return taken;
  }

 private:
  const int32_t* at_;
  uint64_t left_;
};

StepRequest read_batch(std::span<const uint8_t> data) {
  BatchReader in(data);
  const std::span<const int32_t> sizes = in.take(6);
  StepRequest r;
  r.tokens = in.take(sizes[0]);
  r.positions = in.take(sizes[0]);
  r.slots = in.take(sizes[0]);
  r.n_slots = sizes[1];
  r.table_width = sizes[2];
  if (sizes[1] < 0 || sizes[2] < 0) refuse("a batch of negative size");
  r.block_tables = in.take(r.n_slots * r.table_width).data();
  r.outputs = in.take(sizes[3]);
  r.top_k = sizes[4];
  if (sizes[5] != 0 && sizes[5] != sizes[3]) refuse("temperatures of another number than the outputs");
  if (sizes[5] != 0) r.temperatures = reinterpret_cast<const float*>(in.take(sizes[5]).data());
  return r;
}

// A plan with its weights.
class Program {
 public:
  Program(const Section& plan, const Options& options) : spec_(parse_plan(plan.data)), kv_blocks_(plan.argument), options_(options) {
    if (!options.isa.empty()) use_isa(spec_, find_isa(options.isa));
    for (const StepSpec& step : spec_.steps) has_head_ |= step.rule->name == std::string_view("logits_projection");
  }

  void add_resident(std::span<const uint8_t> data) {
    if (executor_) refuse("a resident follows the first use of its plan");
    residents_.push_back(data);
  }

  void set_arena(std::span<const uint8_t> data) {
    Executor& e = executor();
    if (data.size() != e.plan().arena_bytes) refuse("an arena of another size than the plan's");
    std::memcpy(e.arena(), data.data(), data.size());
  }

  void set_cache(std::span<const uint8_t> data) {
    if (data.size() != cache_bytes()) refuse("a cache of another size than the plan's");
    const uint8_t* from = data.data();
    each_half_block([&](uint8_t* half, size_t nbytes) {
      std::memcpy(half, from, nbytes);
      from += nbytes;
    });
  }

  void step(std::span<const uint8_t> data, SectionWriter* out) {
    Executor& e = executor();
    StepRequest r = read_batch(data);
    const size_t n = r.outputs.size();
    const auto candidates = n * static_cast<size_t>(std::clamp(r.top_k, int64_t{0}, e.plan().vocab_size));
    std::vector<float> logits(r.top_k == 0 && has_head_ ? n * static_cast<size_t>(e.plan().vocab_size) : 0), values(candidates);
    std::vector<int32_t> ids(candidates);
    if (!logits.empty()) r.logits = logits.data();
    if (candidates > 0) r.ids = ids.data(), r.values = values.data();
    std::vector<float> rest(r.temperatures != nullptr ? 3 * n : 0);
    if (!rest.empty()) r.rest = rest.data();
    const Failure failure = e.step(r);
    if (failure.error != Error::none) {
      std::printf("error %d in step %" PRId64 ", row %" PRId64 "\n", static_cast<int>(failure.error), failure.step, failure.row);
    }
    if (out == nullptr) return;
    const int64_t result[3] = {static_cast<int64_t>(failure.error), failure.step, failure.row};
    out->add("failure", result, sizeof result);
    if (!logits.empty()) out->add("logits", logits.data(), logits.size() * sizeof(float));
    if (candidates > 0) {
      out->add("ids", ids.data(), candidates * sizeof(int32_t));
      out->add("values", values.data(), candidates * sizeof(float));
    }
    if (options_.state) write_state(*out);
  }

  // A line for each kernel of each step: step, kernel, calls, macs, macs skipped, bytes, nanoseconds.
  void finish(SectionWriter* out) {
    const std::vector<StepCounter> counters = executor().counters();
    for (const StepCounter& c : counters) {
      const ChoiceSpec& choice = executor().plan().steps[static_cast<size_t>(c.step)].choices[static_cast<size_t>(c.choice)];
      std::printf("%" PRId64 "\t%s\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\n", c.step, choice.kernel.c_str(),
                  c.calls, c.macs, c.macs_skipped, c.bytes, c.ns);
    }
    if (out != nullptr) out->add("counters", counters.data(), counters.size() * sizeof(StepCounter));
  }

 private:
  Executor& executor() {
    if (!executor_) executor_ = std::make_unique<Executor>(std::move(spec_), residents_, kv_blocks_, options_.n_threads);
    return *executor_;
  }

  uint64_t cache_bytes() {
    const PlanSpec& plan = executor().plan();
    return static_cast<uint64_t>(executor().kv_blocks() * plan.kv_block_bytes() * 2 * plan.n_kv_layers);
  }

  // The cache as it stands in a file: of each layer all blocks of keys, then those of values.
  template <class Take>
  void each_half_block(Take take) {
    Executor& e = executor();
    for (int64_t layer = 0; layer < e.plan().n_kv_layers; ++layer) {
      const KvLayer kv = e.kv(layer);
      for (uint8_t* half : {kv.keys, kv.values}) {
        for (int64_t block = 0; block < e.kv_blocks(); ++block) {
          take(half + block * kv.block_stride, static_cast<size_t>(e.plan().kv_block_bytes()));
        }
      }
    }
  }

  void write_state(SectionWriter& out) {
    Executor& e = executor();
    out.add("arena", e.arena(), e.plan().arena_bytes);
    out.begin("cache", cache_bytes());
    each_half_block([&](const uint8_t* half, size_t nbytes) { out.put(half, nbytes); });
    out.end();
  }

  PlanSpec spec_;
  int64_t kv_blocks_;
  bool has_head_ = false;
  const Options& options_;
  std::vector<std::span<const uint8_t>> residents_;
  std::unique_ptr<Executor> executor_;
};

void run(const Options& options) {
  const Pages bundle = File(options.bundle, "rb").read();
  std::unique_ptr<SectionWriter> out;
  if (!options.output.empty()) out = std::make_unique<SectionWriter>(options.output);
  std::unique_ptr<Program> program;
  SectionReader sections({bundle.data(), bundle.size()});
  while (const std::optional<Section> section = sections.next()) {
    if (section->tag == "plan") {
      if (program) program->finish(out.get());
      program = std::make_unique<Program>(*section, options);
    } else if (!program) {
      refuse("the bundle does not begin with a plan");
    } else if (section->tag == "resident") {
      program->add_resident(section->data);
    } else if (section->tag == "arena") {
      program->set_arena(section->data);
    } else if (section->tag == "cache") {
      program->set_cache(section->data);
    } else if (section->tag == "batch") {
      program->step(section->data, out.get());
    } else {
      refuse("a section '" + std::string(section->tag) + "', which this build does not know");
    }
  }
  if (!program) refuse("the bundle is empty");
  program->finish(out.get());
  if (out) out->flush();
}

constexpr char kUsage[] =
    "tritium-driver [--isa NAME] [--threads N] [--output FILE [--state]] BUNDLE\n"
    "tritium-driver --isas\n"
    "\n"
    "--isa NAME     run this instruction set's kernels in place of those that the plans name\n"
    "--threads N    workers [one a core]\n"
    "--output FILE  write logits or candidates of every batch\n"
    "--state        and what arena and cache hold after it\n"
    "--isas         list the instruction sets and what became of them\n";

// False if the command line makes no sense.
bool read_options(int n_arguments, char** arguments, Options& options) {
  for (int i = 1; i < n_arguments; ++i) {
    const std::string_view name = arguments[i];
    const bool has_value = i + 1 < n_arguments;
    if (name == "--isas") {
      options.list = true;
    } else if (name == "--state") {
      options.state = true;
    } else if (name == "--isa" && has_value) {
      options.isa = arguments[++i];
    } else if (name == "--output" && has_value) {
      options.output = arguments[++i];
    } else if (name == "--threads" && has_value) {
      const std::string_view text = arguments[++i];
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), options.n_threads);
      if (error != std::errc() || end != text.data() + text.size()) return false;
    } else if (name.starts_with("-") || !options.bundle.empty()) {
      return false;
    } else {
      options.bundle = name;
    }
  }
  return options.list == options.bundle.empty() && (!options.state || !options.output.empty());
}

}  // namespace
}  // namespace tritium

int main(int n_arguments, char** arguments) {
  tritium::Options options;
  if (!tritium::read_options(n_arguments, arguments, options)) {
    std::fputs(tritium::kUsage, stderr);
    return 2;
  }
  try {
    if (options.list) {
      for (const tritium::Isa& isa : tritium::instruction_sets()) std::printf("%s\t%s\n", isa.name.c_str(), isa.status.c_str());
    } else {
      tritium::run(options);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tritium-driver: %s\n", error.what());
    return 1;
  }
  return 0;
}
