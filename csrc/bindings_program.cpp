// The classes Program and Request of the module tritium._native.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "draw.h"
#include "executor.h"
#include "plan.h"

using namespace nanobind::literals;

namespace tritium {
namespace {

// The arrays of a step, kept alive: a step that follows another with the same arrays begins without looking at them again.
class Request {
 public:
  Request(In<int32_t, 1> tokens, In<int32_t, 1> positions, In<int32_t, 1> slots, In<int32_t, 2> block_tables, In<int32_t, 1> outputs,
          int64_t top_k, std::optional<Out<float, 2>> logits, std::optional<Out<int32_t, 2>> ids, std::optional<Out<float, 2>> values,
          std::optional<Out<uint8_t, 2>> columns, std::optional<Out<uint8_t, 2>> hidden, std::optional<Out<uint8_t, 2>> rows,
          std::optional<In<float, 1>> temperatures, std::optional<Out<float, 2>> rest)
      : inputs_{std::move(tokens), std::move(positions), std::move(slots), std::move(outputs)},
        block_tables_(std::move(block_tables)),
        logits_(std::move(logits)),
        ids_(std::move(ids)),
        values_(std::move(values)),
        traced_{std::move(columns), std::move(hidden), std::move(rows)},
        temperatures_(std::move(temperatures)),
        rest_(std::move(rest)) {
    const auto span = [](const In<int32_t, 1>& array) { return std::span<const int32_t>(array.data(), array.size()); };
    request_ = {span(inputs_[0]), span(inputs_[1]), span(inputs_[2]), block_tables_.data(),
                static_cast<int64_t>(block_tables_.shape(0)), static_cast<int64_t>(block_tables_.shape(1)), span(inputs_[3]), top_k};
    const int64_t n = static_cast<int64_t>(inputs_[3].size());
    if (logits_) request_.logits = checked(*logits_, n, logits_width(), "logits");
    if (ids_) request_.ids = checked(*ids_, n, top_k, "ids");
    if (values_) request_.values = checked(*values_, n, top_k, "values");
    const int64_t t = static_cast<int64_t>(inputs_[0].size());
    if (traced_[0]) request_.trace.columns = checked(*traced_[0], t, kDigestBytes, "columns");
    if (traced_[1]) request_.trace.hidden = checked(*traced_[1], n, kDigestBytes, "hidden");
    if (traced_[2]) request_.trace.rows = checked(*traced_[2], t, row_bytes(), "rows");
    if (temperatures_) {
      if (static_cast<int64_t>(temperatures_->size()) != n) throw std::invalid_argument("temperatures: expected one for each output");
      request_.temperatures = temperatures_->data();
    }
    if (rest_) request_.rest = checked(*rest_, n, 3, "rest");
  }

  int64_t draw(int64_t output, uint64_t position, int64_t top_k, double temperature, double top_p, double min_p, uint64_t seed,
               uint64_t sequence, int64_t vocab_size) const {
    const int64_t listed = request_.top_k, n = top_k == 0 ? listed : top_k;
    if (output < 0 || output >= static_cast<int64_t>(request_.outputs.size())) throw std::invalid_argument("draw: no such output");
    if (!ids_ || !values_ || n < 1 || n > std::min(listed, kMostDrawn) || (top_k == 0 && !rest_)) {
      throw std::invalid_argument("draw: expected a request for at least as many candidates, without top_k for the rest, too");
    }
    const DrawRule rule{top_p, min_p, static_cast<float>(temperature), vocab_size, seed, sequence};
    const float* rest = top_k > 0 ? nullptr : request_.rest + 3 * output;
    const int64_t place = tritium::draw({request_.values + output * listed, static_cast<size_t>(n)}, rest, rule, position);
    return place < 0 ? place : request_.ids[output * listed + place];
  }

  const StepRequest& request() const { return request_; }
  int64_t row_bytes() const { return traced_[2] ? static_cast<int64_t>(traced_[2]->shape(1)) : 0; }
  int64_t logits_width() const { return logits_ ? static_cast<int64_t>(logits_->shape(1)) : 0; }

 private:
  template <class T>
  static T* checked(const Out<T, 2>& array, int64_t rows, int64_t cols, const char* name) {
    if (static_cast<int64_t>(array.shape(0)) != rows || static_cast<int64_t>(array.shape(1)) != cols) {
      throw std::invalid_argument(std::string(name) + ": expected shape (" + std::to_string(rows) + ", " + std::to_string(cols) +
                                  "), got (" + std::to_string(array.shape(0)) + ", " + std::to_string(array.shape(1)) + ")");
    }
    return array.data();
  }

  In<int32_t, 1> inputs_[4];
  In<int32_t, 2> block_tables_;
  std::optional<Out<float, 2>> logits_;
  std::optional<Out<int32_t, 2>> ids_;
  std::optional<Out<float, 2>> values_;
  std::optional<Out<uint8_t, 2>> traced_[3];  // columns, hidden, rows
  std::optional<In<float, 1>> temperatures_;
  std::optional<Out<float, 2>> rest_;
  StepRequest request_;
};

// The executor with the arrays that it reads.
class Program {
 public:
  Program(const nb::bytes& plan, std::vector<Bytes> residents, int64_t kv_blocks, int n_threads)
      : residents_(std::move(residents)) {
    std::vector<std::span<const uint8_t>> spans;
    for (const Bytes& r : residents_) spans.emplace_back(r.data(), r.size());
    PlanSpec spec = parse_plan({reinterpret_cast<const uint8_t*>(plan.data()), plan.size()});
    executor_ = std::make_unique<Executor>(std::move(spec), spans, kv_blocks, n_threads);
  }

  Executor& executor() const {
    executor_->renew_after_fork();
    return *executor_;
  }

  int step(const Request& request) {
    Executor& executor = this->executor();
    const StepRequest& r = request.request();
    const auto expect = [](const char* name, size_t n, int64_t width, int64_t got) {
      if (got == width) return;
      const std::string rows = "(" + std::to_string(n) + ", ";
      throw std::invalid_argument(std::string(name) + ": expected shape " + rows + std::to_string(width) + "), got " + rows +
                                  std::to_string(got) + ")");
    };
    if (r.logits != nullptr) expect("logits", r.outputs.size(), executor.plan().vocab_size, request.logits_width());
    if (r.trace.rows != nullptr) expect("rows", r.tokens.size(), executor.trace_row_bytes(), request.row_bytes());
    Failure failure;
    {
      const nb::gil_scoped_release unlocked;
      failure = executor.step(r);
    }
    if (failure.error != Error::none) failure_ = failure;
    return static_cast<int>(failure.error);
  }

  std::tuple<std::string, int64_t, int64_t> failure() const {
    const char* code = failure_.error == Error::not_finite ? "not_finite" : failure_.error == Error::kv_overflow ? "kv_overflow" : "none";
    return {code, failure_.step, failure_.row};
  }

 private:
  std::vector<Bytes> residents_;
  std::unique_ptr<Executor> executor_;
  Failure failure_;
};

nb::ndarray<nb::numpy> buffer(nb::handle self, int64_t index) {
  const Executor& executor = nb::cast<Program&>(self).executor();
  const PlanSpec& plan = executor.plan();
  if (index < 0 || index >= static_cast<int64_t>(plan.buffers.size())) throw nb::index_error("no such buffer");
  const BufferSpec& b = plan.buffers[static_cast<size_t>(index)];
  const nb::dlpack::dtype dtypes[] = {nb::dtype<float>(), nb::dtype<int8_t>(), nb::dtype<int32_t>(), nb::dtype<int16_t>()};
  const size_t shape[] = {static_cast<size_t>(plan.capacity(b.domain)), static_cast<size_t>(b.width)};
  return nb::ndarray<nb::numpy>(executor.arena() + b.offset, 2, shape, self, nullptr, dtypes[static_cast<size_t>(b.dtype)]);
}

std::tuple<nb::object, nb::object> kv(nb::handle self, int64_t layer) {
  const Executor& executor = nb::cast<Program&>(self).executor();
  const PlanSpec& plan = executor.plan();
  if (layer < 0 || layer >= plan.n_kv_layers) throw nb::index_error("no such layer of the cache");
  const KvLayer cache = executor.kv(layer);
  const auto blocks = static_cast<size_t>(executor.kv_blocks()), heads = static_cast<size_t>(plan.n_kv_heads);
  const auto dim = static_cast<size_t>(plan.head_dim), block = static_cast<size_t>(plan.kv_block);
  if (plan.cache == CacheKind::int8) {
    const size_t nbytes = (dim + 4) * block;
    const auto view = [&](uint8_t* half) {
      const auto n = static_cast<int64_t>(nbytes);
      return nb::cast(StridedView<uint8_t, 3>(half, {blocks, heads, nbytes}, self, {cache.block_stride, n, 1}));
    };
    return {view(cache.keys), view(cache.values)};
  }
  const auto view = [&](uint8_t* half, size_t n, size_t width) {
    const auto head = static_cast<int64_t>(n * width), row = static_cast<int64_t>(width), stride = cache.block_stride / 2;
    return nb::cast(StridedView<uint16_t, 4>(half, {blocks, heads, n, width}, self, {stride, head, row, 1}));
  };
  return {view(cache.keys, dim, block), view(cache.values, block, dim)};
}

View<int64_t, 2> counters(Program& self) {
  auto rows = std::make_unique<std::vector<StepCounter>>();
  {
    Executor& executor = self.executor();
    const nb::gil_scoped_release unlocked;
    *rows = executor.counters();
  }
  static_assert(sizeof(StepCounter) == 7 * sizeof(int64_t));
  const size_t n = rows->size();
  auto* data = reinterpret_cast<int64_t*>(rows->data());
  const nb::capsule owner(rows.get(), [](void* p) noexcept { delete static_cast<std::vector<StepCounter>*>(p); });
  static_cast<void>(rows.release());
  return View<int64_t, 2>(data, {n, 7}, owner);
}

std::tuple<uint64_t, uint64_t, uint64_t> totals(Program& self) {
  Executor& executor = self.executor();
  const nb::gil_scoped_release unlocked;
  const Totals t = executor.totals();
  return {t.n_steps, t.n_tokens, t.wall_ns};
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Request>(m, "Request", "The arrays of a step. It may be run again after their elements, but not their shapes, have changed.")
      .def(nb::init<In<int32_t, 1>, In<int32_t, 1>, In<int32_t, 1>, In<int32_t, 2>, In<int32_t, 1>, int64_t,
                    std::optional<Out<float, 2>>, std::optional<Out<int32_t, 2>>, std::optional<Out<float, 2>>,
                    std::optional<Out<uint8_t, 2>>, std::optional<Out<uint8_t, 2>>, std::optional<Out<uint8_t, 2>>,
                    std::optional<In<float, 1>>, std::optional<Out<float, 2>>>(),
           "tokens"_a.noconvert(), "positions"_a.noconvert(), "slots"_a.noconvert(), "block_tables"_a.noconvert(),
           "outputs"_a.noconvert(), "top_k"_a, "logits"_a.noconvert().none() = nb::none(), "ids"_a.noconvert().none() = nb::none(),
           "values"_a.noconvert().none() = nb::none(), "columns"_a.noconvert().none() = nb::none(),
           "hidden"_a.noconvert().none() = nb::none(), "rows"_a.noconvert().none() = nb::none(),
           "temperatures"_a.noconvert().none() = nb::none(), "rest"_a.noconvert().none() = nb::none(),
           "Shapes: tokens, positions, slots (T,) i32, block_tables (S, B) i32, outputs (n,) i32 ascending; written: logits\n"
           "(n, vocab) f32, ids (n, top_k) i32, values (n, top_k) f32; of a trace, columns (T, 32) u8, hidden (n, 32) u8,\n"
           "rows (T, trace_row_bytes) u8; for temperatures (n,) f32, rest (n, 3) f32: an upper and a lower bound of the weight of\n"
           "what is no candidate over the best one's, and how many are sure; each where given. Errors: ValueError for another\n"
           "shape.")
      .def("draw", &Request::draw,  // without keywords, as step
           "The token that candidates of the step give, or -1 where they do not decide; tritium.types.StepResult tells.\n\n"
           "Arguments: output, position, top_k, temperature, top_p, min_p, seed, sequence, vocab_size. Errors: ValueError for an output\n"
           "or a number of candidates that was not asked for.");
  nb::class_<Program>(m, "Program",
                      "A plan with its weights, arena, cache and threads. One step at a time; a second thread's step raises "
                      "RuntimeError.")
      .def(nb::init<const nb::bytes&, std::vector<Bytes>, int64_t, int>(), "plan"_a, "residents"_a, "kv_blocks"_a, "n_threads"_a,
           "Parse and check a binary plan (tritium.ir.encode_plan), bind its kernels, keep the residents alive.\n\n"
           "Errors: ValueError for a malformed plan, a kernel that does not run here or a resident of a wrong size; MemoryError.")
      .def("step", &Program::step,  // without a keyword: reading those costs a token microseconds
           "Run the plan on the request's tokens; the interpreter's lock is released.\n\n"
           "Returns 0, or nonzero if a number went out of range: failure() tells. Errors: ValueError for a request that does not fit\n"
           "the plan; RuntimeError while another thread is in a step.")
      .def("project",
           [](Program& self, int64_t output, const Out<float, 1>& logits) {
             Executor& executor = self.executor();
             if (static_cast<int64_t>(logits.size()) != executor.plan().vocab_size) {
               throw std::invalid_argument("logits: expected one for each token of the vocabulary");
             }
             const nb::gil_scoped_release unlocked;
             executor.project(output, logits.data());
           },
           "output"_a, "logits"_a.noconvert(),
           "Write all logits (vocab,) f32 of one output of the last step. Errors: ValueError if that step had no such output.")
      .def("failure", &Program::failure,
           "What the last failed step reported: (code, step, row), code \"not_finite\", \"kv_overflow\" or \"none\".")
      .def("counters", &counters,
           "Of each step and kernel choice since the last reset, as rows of (n, 7) i64: step, choice, calls, macs, macs_skipped,\n"
           "bytes, ns.")
      .def("totals", &totals, "(steps, tokens, nanoseconds inside step) since the last reset.")
      .def("reset_counters",
           [](Program& self) {
             Executor& executor = self.executor();
             const nb::gil_scoped_release unlocked;
             executor.reset_counters();
           },
           "Set all counters to zero.")
      .def("copy_block",
           [](Program& self, int64_t source, int64_t target) {
             Executor& executor = self.executor();
             const nb::gil_scoped_release unlocked;
             executor.copy_block(source, target);
           },
           "source"_a, "target"_a, "Copy a cache block in all layers. Errors: ValueError for a block out of range.")
      .def("knock_out", [](Program& self, std::string_view kernel) { return self.executor().knock_out(kernel); }, "kernel"_a,
           "Let the kernel of this id do nothing from now on, and all others their work; \"\" brings all back. Returns the number of\n"
           "steps' choices that it was in.")
      .def("buffer", [](nb::handle_t<Program> self, int64_t index) { return buffer(self, index); }, "index"_a,
           "A writable view (rows, width) of a buffer of the arena.")
      .def("arena",
           [](nb::handle_t<Program> self) {
             const Executor& e = nb::cast<Program&>(self).executor();
             return View<uint8_t, 1>(e.arena(), {static_cast<size_t>(e.plan().arena_bytes)}, self);
           },
           "A writable view of the whole arena.")
      .def("kv", [](nb::handle_t<Program> self, int64_t layer) { return kv(self, layer); }, "layer"_a,
           "Writable views of a layer's cache: as float16 bits keys (blocks, heads, head_dim, kv_block) and values (blocks, heads,\n"
           "kv_block, head_dim); of an int8 cache bytes (blocks, heads, (head_dim + 4)·kv_block), codes in that order, then float32\n"
           "scales.")
      .def_prop_ro("trace_row_bytes", [](const Program& self) { return self.executor().trace_row_bytes(); },
                   "Bytes of a token's quantized rows: codes and scale of each.")
      .def_prop_ro("n_shared_loops", [](const Program& self) { return self.executor().n_shared_loops(); },
                   "Loops since the start that the threads shared: each is a barrier.")
      .def_prop_ro("n_threads", [](const Program& self) { return self.executor().n_threads(); }, "Workers, the caller included.");
}

}  // namespace tritium
