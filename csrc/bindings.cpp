// The module tritium._native: arrays and bytes in, arrays and numbers out. Everything of substance is in the files it includes.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bandwidth.h"
#include "bindings.h"
#include "draw.h"
#include "pack.h"
#include "peak.h"
#include "plane.h"
#include "plan.h"
#include "registry.h"
#include "sha256.h"

#ifndef TRITIUM_BUILD_FLAGS
#define TRITIUM_BUILD_FLAGS ""
#endif

using namespace nanobind::literals;

namespace tritium {
namespace {

View<uint8_t, 1> as_array(Pages pages) {
  auto owner = std::make_unique<Pages>(std::move(pages));
  uint8_t* data = owner->data();
  const size_t size = owner->size();
  const nb::capsule capsule(owner.get(), [](void* p) noexcept { delete static_cast<Pages*>(p); });
  static_cast<void>(owner.release());
  return View<uint8_t, 1>(data, {size}, capsule);
}

Dialect parse_dialect(const std::string& name) {
  if (name == "128") return Dialect::blocks128;
  if (name == "64") return Dialect::blocks64;
  if (name == "4row") return Dialect::rows4;
  if (name == "tq1_0") return Dialect::tq1_0;
  if (name == "tq2_0") return Dialect::tq2_0;
  throw std::invalid_argument("dialect: expected 128, 64, 4row, tq1_0 or tq2_0, got " + name);
}

View<uint8_t, 1> pack(const std::vector<PackPart>& parts, int n_threads, const std::string& layout) {
  Pages panels;
  {
    const nb::gil_scoped_release unlocked;
    panels = pack_panels(parts, n_threads, layout);
  }
  return as_array(std::move(panels));
}

View<uint8_t, 1> pack_i2s(const std::vector<std::tuple<Bytes, int64_t, int64_t, float, std::string>>& parts, int n_threads,
                          const std::string& layout) {
  std::vector<PackPart> list;
  for (const auto& [data, rows, cols, scale, dialect] : parts) {
    list.push_back({{data.data(), data.size()}, rows, cols, scale, parse_dialect(dialect)});
  }
  return pack(list, n_threads, layout);
}

View<uint8_t, 1> pack_trits(const std::vector<std::tuple<In<int8_t, 2>, float>>& parts, int n_threads, const std::string& layout) {
  std::vector<PackPart> list;
  for (const auto& [trits, scale] : parts) {
    list.push_back({{reinterpret_cast<const uint8_t*>(trits.data()), trits.size()}, static_cast<int64_t>(trits.shape(0)),
                    static_cast<int64_t>(trits.shape(1)), scale, Dialect::trits});
  }
  return pack(list, n_threads, layout);
}

View<uint8_t, 1> pack_head_plane(const Bytes& data, const std::string& layout, int64_t rows, int64_t cols, int n_threads) {
  Pages plane;
  {
    const nb::gil_scoped_release unlocked;
    plane = pack_plane({data.data(), data.size()}, layout, rows, cols, n_threads);
  }
  return as_array(std::move(plane));
}

const Sha256Way& way_named(const std::string& name) {
  if (name.empty()) return fastest_sha256();
  for (const Sha256Way& way : sha256_ways()) {
    if (way.name == name && way.usable()) return way;
  }
  throw std::invalid_argument("way: expected one of sha256_ways(), got " + name);
}

std::vector<std::string> usable_sha256_ways() {
  std::vector<std::string> names;
  for (const Sha256Way& way : sha256_ways()) {
    if (way.usable()) names.emplace_back(way.name);
  }
  return names;
}

std::vector<nb::bytes> sha256_of_each(const std::vector<Bytes>& arrays, int n_threads, const std::string& way) {
  std::vector<uint8_t> digests(arrays.size() * kDigestBytes);
  std::vector<Sha256Job> jobs;
  for (const Bytes& array : arrays) jobs.push_back({{array.data(), array.size()}, {}, digests.data() + jobs.size() * kDigestBytes});
  const Sha256Way& chosen = way_named(way);
  {
    const nb::gil_scoped_release unlocked;
    ThreadPool pool(n_threads);
    sha256_each(jobs, pool, chosen);
  }
  std::vector<nb::bytes> list;
  for (const Sha256Job& job : jobs) list.emplace_back(job.digest, kDigestBytes);
  return list;
}

nb::bytes sha256(const nb::bytes& data, const std::string& way) {
  uint8_t digest[kDigestBytes];
  Sha256 hash(way_named(way));
  hash.update({reinterpret_cast<const uint8_t*>(data.c_str()), data.size()});
  hash.finish(digest);
  return nb::bytes(digest, sizeof digest);
}

View<int64_t, 1> weights(const In<float, 1>& logits, float first, float temperature) {
  auto* out = new int64_t[logits.size() + 1];
  const nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<int64_t*>(p); });
  draw_weights({logits.data(), logits.size()}, first, temperature, out);
  return View<int64_t, 1>(out, {logits.size()}, owner);
}

template <Pages (*kPack)(const PackPart&, int)>
View<uint8_t, 1> pack_one(const Bytes& data, int64_t rows, int64_t cols, float scale, const std::string& dialect, int n_threads) {
  const PackPart part{{data.data(), data.size()}, rows, cols, scale, parse_dialect(dialect)};
  Pages packed;
  {
    const nb::gil_scoped_release unlocked;
    packed = kPack(part, n_threads);
  }
  return as_array(std::move(packed));
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Isa& isa : instruction_sets()) {
    if (isa.usable()) names.push_back(isa.name);
  }
  return names;
}

std::vector<std::tuple<std::string, std::string>> isa_status() {
  std::vector<std::tuple<std::string, std::string>> rows;
  for (const Isa& isa : instruction_sets()) rows.emplace_back(isa.name, isa.status);
  return rows;
}

std::vector<std::tuple<std::string, std::string, std::string, std::string, int, int>> kernels() {
  std::vector<std::tuple<std::string, std::string, std::string, std::string, int, int>> rows;
  for (const Isa& isa : instruction_sets()) {
    if (!isa.usable()) continue;
    for (const Kernel& k : isa.kernels) rows.emplace_back(k.id, k.op, k.layout, k.isa, k.t_min, k.t_max);
  }
  return rows;
}

std::tuple<std::string, std::string, std::string> build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
#if defined(__x86_64__)
  const std::string architecture = "x86_64";
#elif defined(__aarch64__)
  const std::string architecture = "aarch64";
#endif
  return {compiler, TRITIUM_BUILD_FLAGS, architecture};
}

void translate_code_error(const std::exception_ptr& p, void* type) {
  try {
    std::rethrow_exception(p);
  } catch (const CodeError& error) {
    const nb::handle code_error(static_cast<PyObject*>(type));
    const nb::object value = code_error(error.what(), error.part, error.offset);
    value.attr("part") = error.part;
    value.attr("offset") = error.offset;
    PyErr_SetObject(code_error.ptr(), value.ptr());
  }
}

}  // namespace
}  // namespace tritium

NB_MODULE(_native, m) {
  using namespace tritium;
  m.doc() = "The native core: kernels, the executor of plans, weight repacking.";
  const nb::object code_error = nb::steal(PyErr_NewExceptionWithDoc(
      "tritium._native.CodeError",
      "A byte that holds no ternary code. args = (text, part, byte), also as attributes part and offset.", PyExc_ValueError, nullptr));
  m.attr("CodeError") = code_error;
  nb::register_exception_translator(translate_code_error, code_error.inc_ref().ptr());
  m.def("isas", &isas, "Instruction sets that run here, best first: compiled in, in the CPU, passed by the self-test.");
  m.def("isa_status", &isa_status,
        "(name, status) of every instruction set: \"ok\", \"not compiled\", \"cpu lacks it\", \"self-test failed\" or\n"
        "\"illegal instruction\".");
  m.def("kernels", &kernels, "(id, op, layout, isa, t_min, t_max) of every kernel that runs here; t_max 0 is unbounded.");
  m.def("build_info", &build_info, "(compiler, flags, architecture) of this build.");
  m.def("pack_i2s", &pack_i2s, "parts"_a, "n_threads"_a = 1, "layout"_a = "i2s",
        "Repack ternary tensors into panels of layout \"i2s\" or \"tq1\", stacked, each padded to 16 rows;\n"
        "of \"i2s_groups\" with the scales of their blocks.\n\n"
        "parts: (file bytes, rows, cols, scale, dialect), all of one width. Dialects: I2_S's \"128\", \"64\" and \"4row\", with the\n"
        "32 bytes of tail, \"tq1_0\" and \"tq2_0\".\n"
        "Errors: CodeError for a code 3; ValueError for a size that does not follow from the shape.");
  m.def("pack_i2s_rows", &pack_one<pack_rows>, "data"_a, "rows"_a, "cols"_a, "scale"_a, "dialect"_a, "n_threads"_a = 1,
        "Repack a ternary tensor into I2_S in blocks of 128. Errors: as pack_i2s.");
  m.def("pack_i2s_columns", &pack_one<pack_columns>, "data"_a, "rows"_a, "cols"_a, "scale"_a, "dialect"_a, "n_threads"_a = 1,
        "Repack a ternary tensor into columns. Errors: as pack_i2s.");
  m.def("pack_trits", &pack_trits, "parts"_a, "n_threads"_a = 1, "layout"_a = "i2s",
        "Pack trits into panels of layout \"i2s\" or \"tq1\", stacked, each padded to 16 rows.\n\n"
        "parts: (trits (rows, cols) i8 in {-1, 0, 1}, scale), all of one width. Errors: CodeError for another value.");
  m.def("pack_plane", &pack_head_plane, "data"_a, "layout"_a, "rows"_a, "cols"_a, "n_threads"_a = 1,
        "The plane44 layout of a head of layout \"f32\", \"f16\", \"bf16\", \"q8_0\" or \"q6_k\": rows of 8 bits in two halves, with\n"
        "scales and bounds on what they leave out.\n\n"
        "Errors: ValueError for another layout or a size that does not follow from the shape.");
  m.def(
      "all_finite",
      [](const Bytes& data, const std::string& layout, int n_threads) {
        const nb::gil_scoped_release unlocked;
        return all_finite({data.data(), data.size()}, layout, n_threads);
      },
      "data"_a, "layout"_a, "n_threads"_a = 1,
      "True if every number, of layout \"f32\", \"f16\" or \"bf16\", is finite. Errors: ValueError for another layout.");
  m.def("sha256_ways", &usable_sha256_ways, "Names of the ways to SHA-256 that this processor has, the fastest first.");
  m.def("sha256_each", &sha256_of_each, "arrays"_a, "n_threads"_a = 1, "way"_a = "",
        "SHA-256 of each of several arrays of bytes, by the fastest way or a named one. Errors: ValueError for a way that is not there.");
  m.def("sha256", &sha256, "data"_a, "way"_a = "",
        "SHA-256 of some bytes, by the fastest way or a named one. Errors: ValueError for a way that is not there.");
  m.def("draw_weights", &weights, "logits"_a.noconvert(), "first"_a, "temperature"_a,
        "Integer weights (n,) i64 of a draw by logits (n,) f32, as tritium.engine.sampling defines them; first: the greatest of all.");
  m.def("read_bandwidth", &read_bandwidth, "n_threads"_a, "nbytes"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Gigabytes (10^9) a second that n_threads read together from a buffer of nbytes: the median of 7 passes.");
  m.def("int8_peak", &int8_peak, "isa"_a, "n_threads"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Billions of multiply-accumulates a second that n_threads reach together with the instruction set's product of int8, on\n"
        "registers alone: the best of 15 passes. Errors: ValueError for an instruction set that does not run here.");
  m.def("f32_peak", &f32_peak, "isa"_a, "n_threads"_a, nb::call_guard<nb::gil_scoped_release>(),
        "The same of float32, each product rounded before it is added.");
  bind_program(m);
}
