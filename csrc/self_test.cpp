#include "self_test.h"

#include <cstring>
#include <memory>
#include <string_view>

#include "platform.h"
#include "scene.h"

namespace tritium {

namespace {

// One region is too small for these, so that their strides and cache blocks stay inside it. The second linear is long enough for
// an accumulator of 16 bits that is emptied too late to overflow. The last is for linears alone, which form tables of so many tokens:
// rows of other ops would meet in the cache.
constexpr Shape kShapes[] = {
    {1, 100, 41, 4, 2, 20},
    {3, 256, 40, 6, 2, 32},
    {2, 1120, 32, 4, 4, 16},
    {9, 512, 24, 5, 1, 20},
    {1, 768, 40, 4, 2, 20},
    {kTableLeast + 1, 160, 128, 4, 2, 16},
};
constexpr int64_t kMostRows = 9;  // of an op that is no linear

const Kernel* counterpart(const Kernel& kernel, int64_t t, const std::vector<Kernel>& baseline) {
  for (const Kernel& b : baseline) {
    const bool covers = b.t_min <= t && (b.t_max == 0 || t <= b.t_max);
    if (covers && std::string_view(b.op) == kernel.op && std::string_view(b.layout) == kernel.layout) return &b;
  }
  return nullptr;
}

bool same(const Scene& a, const Work& work_a, const Scene& b, const Work& work_b) {
  const auto equal = [&](int region, int64_t nbytes) {
    return std::memcmp(a.region(region), b.region(region), static_cast<size_t>(nbytes)) == 0;
  };
  return work_a.macs == work_b.macs && work_a.error == work_b.error && work_a.error_row == work_b.error_row &&
         equal(Scene::first_output, Scene::kRowsBytes) && equal(Scene::first_output + 1, Scene::kRowsBytes) &&
         equal(Scene::keys, Scene::kRegionBytes) && equal(Scene::values, Scene::kRegionBytes);
}

bool fits(const Kernel& kernel, const Shape& shape) {
  const std::string_view layout = kernel.layout;
  const int64_t block = layout == "q6_k" || layout == "i2s_groups" ? 256 : layout == "q8_0" ? 32 : layout == "i2_s" ? 128 : 1;
  if (shape.t > kMostRows && std::string_view(kernel.op) != "linear") return false;
  return kernel.t_min <= shape.t && (kernel.t_max == 0 || shape.t <= kernel.t_max) && shape.k % block == 0;
}

}  // namespace

std::string self_test(const std::vector<Kernel>& kernels, const std::vector<Kernel>& baseline) {
  const FloatEnvironment environment;
  Scene ours, theirs;
  for (const Kernel& kernel : kernels) {
    int compared = 0;
    for (const Shape& shape : kShapes) {
      if (!fits(kernel, shape)) continue;
      const Kernel* other = counterpart(kernel, shape.t, baseline);
      if (other == nullptr || !set_scene(ours, kernel.op, kernel.layout, shape)) return "self-test failed";
      set_scene(theirs, kernel.op, kernel.layout, shape);
      Work our_work, their_work;
      if (!survives([&] { kernel.run(ours.call, 0, ours.units, our_work); })) return "illegal instruction";
      other->run(theirs.call, 0, theirs.units, their_work);
      if (!same(ours, our_work, theirs, their_work)) return "self-test failed";
      ++compared;
    }
    if (compared == 0) return "self-test failed";
  }
  return "ok";
}

}  // namespace tritium
