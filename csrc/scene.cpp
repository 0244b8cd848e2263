#include "scene.h"

#include "pack.h"
#include "plan.h"

namespace tritium {

namespace {

// A cheap generator: the same numbers on every machine.
class Random {
 public:
  uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33);
  }
  float value() { return static_cast<float>(static_cast<int32_t>(next() & 0xffff) - 0x8000) / 8192.0f; }

 private:
  uint64_t state_ = 1;
};

constexpr int64_t kBlock = 64, kBlocks = 8, kTableWidth = 6, kContext = 330;

void fill_floats(float* out, int64_t rows, int64_t width, int64_t stride, Random& random) {
  for (int64_t r = 0; r < rows; ++r) {
    // Rows of tiny, huge and ordinary numbers; the first row is zero but for one.
    const float size = r % 4 == 1 ? 1e-30f : r % 4 == 2 ? 4e3f : 1.0f;
    for (int64_t c = 0; c < width; ++c) out[r * stride + c] = r % 4 == 0 && c != width / 2 ? 0.0f : size * random.value();
  }
}

void fill_codes(int8_t* out, int64_t rows, int64_t width, int64_t stride, Random& random) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      out[r * stride + c] = r % 3 == 0 ? -128 : r % 3 == 1 ? 127 : static_cast<int8_t>(random.next());
    }
  }
}

uint16_t half_of_order_one(Random& random) { return static_cast<uint16_t>((random.next() & 0x83ff) | 0x3800); }

// Bytes of a resident, all decoding to finite numbers. Panel 0 holds +1 only, panel 1 -1 only: the greatest sums there are.
Resident fill_weight(uint8_t* out, const std::string_view layout, int64_t rows, int64_t cols, Random& random) {
  int64_t nbytes = 0;
  if (layout == "i2s" || layout == "tq1") {
    const int64_t panels = rows / kPanelRows, size = panel_bytes(layout, cols);
    std::vector<uint8_t> codes(static_cast<size_t>(panel_bytes("i2s", cols)));
    for (int64_t p = 0; p < panels; ++p) {
      for (uint8_t& byte : codes) {
        const uint32_t x = random.next();
        const auto mixed = static_cast<uint8_t>(x & ~((x >> 1) & 0x55));  // no code 3
        byte = p == 0 ? 0xaa : p == 1 ? 0x00 : mixed;
      }
      if (layout == "tq1") {
        pack_trit_panel(codes.data(), cols, out + p * size);
      } else {
        std::memcpy(out + p * size, codes.data(), codes.size());
      }
      const float scale = 0.01f * static_cast<float>(p + 1);
      std::memcpy(out + panels * size + 4 * p, &scale, sizeof scale);
    }
    nbytes = panels * size + (4 * panels + 63) / 64 * 64;
  } else if (layout == "i2s_groups") {
    nbytes = rows / kPanelRows * panel_bytes(layout, cols);
    for (int64_t i = 0; i < nbytes; ++i) {
      const uint32_t x = random.next();
      out[i] = static_cast<uint8_t>(x & ~((x >> 1) & 0x55));
    }
    constexpr int64_t kCodes = kScaleGroup / kPanelDepth * 64;
    for (int64_t g = kCodes; g < nbytes; g += kCodes + 4 * kPanelRows) {
      for (int r = 0; r < kPanelRows; ++r) {
        const float scale = 0.01f * random.value();
        std::memcpy(out + g + 4 * r, &scale, sizeof scale);
      }
    }
  } else if (layout == "i2_s" || layout == "i2s_columns") {
    const int64_t codes = layout == "i2_s" ? rows * cols / 4 : cols * ((rows + kColumnRows - 1) / kColumnRows) * 64;
    for (int64_t i = 0; i < codes; ++i) {
      const uint32_t x = random.next();
      out[i] = static_cast<uint8_t>(x & ~((x >> 1) & 0x55));
    }
    const float scale = 0.01f;
    std::memcpy(out + codes, &scale, sizeof scale);
    nbytes = codes + (layout == "i2_s" ? 32 : 64);
  } else if (layout == "plane44") {
    const PlaneLayout plane(rows, cols);
    nbytes = plane.nbytes;
    // The first panel holds only the least code, for the greatest sums.
    for (int64_t i = 0; i < nbytes; ++i) out[i] = static_cast<uint8_t>(i < plane.high_panel ? 0 : random.next());
    for (int64_t p = 0; p < plane.n_panels; ++p) {
      fill_floats(reinterpret_cast<float*>(out + (p + 1) * plane.high_panel - 12 * kPanelRows), 3, kPanelRows, kPanelRows, random);
      fill_floats(reinterpret_cast<float*>(out + plane.low_begin + (p + 1) * plane.low_panel - 16 * kPanelRows), 4, kPanelRows, kPanelRows,
                  random);
    }
    const float greatest = 1e4f;
    std::memcpy(out + plane.greatest_norm, &greatest, sizeof greatest);
  } else if (layout == "f32") {
    nbytes = rows * cols * 4;
    fill_floats(reinterpret_cast<float*>(out), rows, cols, cols, random);
  } else {
    // Two-byte numbers throughout, then each block's scale where its layout has it.
    nbytes = layout == "q8_0" ? rows * cols / 32 * 34 : layout == "q6_k" ? rows * cols / 256 * 210 : rows * cols * 2;
    for (int64_t i = 0; i < nbytes; i += 2) {
      const uint16_t x = half_of_order_one(random);
      std::memcpy(out + i, &x, sizeof x);
    }
  }
  return {out, rows, cols, nbytes};
}

Operand floats_in(Scene& s, int i, int64_t width, const Shape& shape, Random& random) {
  const int64_t stride = (width + 15) / 16 * 16;
  fill_floats(s.as<float>(Scene::first_input + i), shape.t, width, stride, random);
  return {s.region(Scene::first_input + i), stride};
}

Operand place_out(Scene& s, int i, int64_t width, int64_t multiple) {
  return {s.region(Scene::first_output + i), (width + multiple - 1) / multiple * multiple};
}

void fill_table(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  s.ints = {static_cast<int32_t>(shape.k), static_cast<int32_t>(shape.n)};
  s.call.weights[0] = fill_weight(s.region(Scene::first_weight), layout, shape.n, shape.k, random);
}

void fill_embedding(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  fill_table(s, shape, layout, random);
  for (int32_t& token : s.tokens) token = static_cast<int32_t>(random.next() % shape.n);
  s.call.out[0] = place_out(s, 0, shape.k, 16);
}

void fill_norm(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  s.ints = {static_cast<int32_t>(shape.k), 8};
  s.floats = {1e-5f};
  s.call.in[0] = floats_in(s, 0, shape.k, shape, random);
  if (layout != "none") s.call.weights[0] = fill_weight(s.region(Scene::first_weight), "f32", 1, shape.k, random);
  s.call.out[0] = place_out(s, 0, shape.k, 64);
  s.call.out[1] = place_out(s, 1, 1, 16);
}

void fill_linear(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  const bool grouped = layout == "i2s_groups", panels = grouped || layout == "i2s" || layout == "tq1", gated = layout == "i2_s";
  const int64_t rows = (shape.n + kPanelRows - 1) / kPanelRows * kPanelRows, stride = (shape.k + 63) / 64 * 64;
  s.ints = {static_cast<int32_t>(shape.k), static_cast<int32_t>(shape.n), grouped ? static_cast<int32_t>(kScaleGroup) : 0, 8, gated ? 0 : static_cast<int32_t>(shape.t % 2)};
  fill_codes(s.as<int8_t>(Scene::first_input), shape.t, shape.k, stride, random);
  if (!panels) {
    for (int64_t c = 0; c < shape.k; c += 3) s.as<int8_t>(Scene::first_input)[c] = 0;
  }
  s.call.in[0] = {s.region(Scene::first_input), stride};
  for (int64_t r = 0; r < shape.t; ++r) s.as<float>(Scene::first_input + 1)[16 * r] = 0.003f * static_cast<float>(r + 1);
  s.call.in[1] = {s.region(Scene::first_input + 1), 16};
  if (gated) {
    s.call.in[2] = floats_in(s, 2, shape.n, shape, random);
    for (int64_t r = 0; r < shape.n; ++r) s.call.in[2].row<float>(0)[r] = random.value();
  }
  s.call.weights[0] = fill_weight(s.region(Scene::first_weight), layout, panels ? rows : shape.n, shape.k, random);
  s.call.out[0] = place_out(s, 0, rows, 16);
  fill_floats(s.as<float>(Scene::first_output), shape.t, rows, s.call.out[0].stride, random);
  s.units = layout == "i2s_columns" ? ColumnUnits(shape.t, shape.k, 1).size() : rows / kPanelRows;
}

void fill_cache(Scene& s, const Shape& shape, Random& random) {
  // Codes of any kind, too, and scales of float32: the pattern of two such numbers is one.
  for (int region : {Scene::keys, Scene::values}) {
    for (int64_t i = 0; i < Scene::kRegionBytes / 2; ++i) s.as<uint16_t>(region)[i] = half_of_order_one(random);
  }
  s.call.kv = {s.region(Scene::keys), s.region(Scene::values), int64_t{2} * shape.kv_heads * shape.dim * kBlock};
  s.ints = {0, shape.heads, shape.kv_heads, shape.dim, static_cast<int32_t>(shape.t % 2)};
}

void fill_rope(Scene& s, const Shape& shape, std::string_view, Random& random) {
  fill_cache(s, shape, random);
  s.call.in[0] = floats_in(s, 0, int64_t{shape.heads} * shape.dim, shape, random);
  for (int i : {1, 2}) s.call.in[i] = floats_in(s, i, int64_t{shape.kv_heads} * shape.dim, shape, random);
  for (int i : {0, 1}) {
    float* table = s.as<float>(Scene::first_weight + i);
    for (int64_t j = 0; j < kContext * shape.dim / 2; ++j) table[j] = random.value() / 4;
    s.call.weights[i] = {s.region(Scene::first_weight + i), kContext, shape.dim / 2, kContext * shape.dim * 2};
  }
  s.call.out[0] = place_out(s, 0, int64_t{shape.heads} * shape.dim, 16);
}

void fill_attention(Scene& s, const Shape& shape, std::string_view, Random& random) {
  fill_cache(s, shape, random);
  s.call.in[0] = floats_in(s, 0, int64_t{shape.heads} * shape.dim, shape, random);
  for (int64_t r = 0; r < shape.t; ++r) {
    for (int64_t c = 0; c < shape.heads * shape.dim; ++c) s.call.in[0].row<float>(r)[c] = random.value();
  }
  s.call.out[0] = place_out(s, 0, int64_t{shape.heads} * shape.dim, 16);
  // Pairs of rows of one slot.
  for (int32_t r = 0; r < shape.t; ++r) s.slots[static_cast<size_t>(r)] = r / 2;
  for (int32_t r = 0; r < shape.t; r += 2) s.tiles.push_back(r);
  s.units = static_cast<int64_t>(s.tiles.size()) * shape.kv_heads;
  s.tiles.push_back(static_cast<int32_t>(shape.t));
  s.call.batch.tiles = s.tiles.data();
}

void fill_glu(Scene& s, const Shape& shape, std::string_view, Random& random) {
  s.ints = {static_cast<int32_t>(shape.k)};
  for (int i : {0, 1}) s.call.in[i] = floats_in(s, i, shape.k, shape, random);
  s.call.out[0] = place_out(s, 0, shape.k, 16);
}

void fill_output_rows(Scene& s, const Shape& shape, std::string_view, Random& random) {
  s.ints = {static_cast<int32_t>(shape.k)};
  s.call.in[0] = floats_in(s, 0, shape.k, shape, random);
  s.call.out[0] = place_out(s, 0, shape.k, 16);
}

void fill_logits(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  fill_table(s, shape, layout, random);
  s.call.in[0] = floats_in(s, 0, shape.k, shape, random);
  s.call.out[0] = place_out(s, 0, shape.n, 16);
  s.units = (shape.n + kPanelRows - 1) / kPanelRows;
}

void fill_select(Scene& s, const Shape& shape, std::string_view, Random& random) {
  s.ints = {static_cast<int32_t>(shape.n)};
  s.call.in[0] = floats_in(s, 0, shape.n, shape, random);
  for (int64_t r = 0; r < shape.t; ++r) {
    // Few different values, so that ties decide.
    for (int64_t c = 0; c < shape.n; ++c) s.call.in[0].row<float>(r)[c] = static_cast<float>(random.next() % 64) - 32.0f;
  }
  s.call.batch.top_k = static_cast<int32_t>(shape.t == 1 ? 1 : shape.n / 2);
  for (int i : {0, 1}) s.call.out[i] = place_out(s, i, s.call.batch.top_k, 16);
}

void fill_screen(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  fill_table(s, shape, layout, random);
  s.call.in[0] = floats_in(s, 0, shape.k, shape, random);
  for (int i : {0, 1}) s.call.out[i] = place_out(s, i, shape.n, 16);
  s.units = (shape.n + kPanelRows - 1) / kPanelRows;
}

// Estimates of every size or upper bounds of two; a threshold that leaves every row of one output, none and some of others.
void fill_bounds(Operand at, const Shape& shape, bool is_upper) {
  for (int64_t r = 0; r < shape.t; ++r) {
    for (int64_t c = 0; c < shape.n; ++c) at.row<float>(r)[c] = is_upper ? (c % 9 == r ? 4.0f : 1.0f) : static_cast<float>(c * 7 % 31);
  }
}

Operand fill_least(Scene& s, int i, const Shape& shape, Random& random) {
  const Operand least = floats_in(s, i, 1, shape, random);
  for (int64_t r = 0; r < shape.t; ++r) *least.row<float>(r) = r % 3 == 1 ? 0.0f : r % 3 == 2 ? 5.0f : 2.0f;
  return least;
}

void fill_threshold(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  fill_table(s, shape, layout, random);
  s.call.in[0] = floats_in(s, 0, shape.k, shape, random);
  s.call.in[1] = floats_in(s, 1, shape.n, shape, random);
  fill_bounds(s.call.in[1], shape, false);
  s.call.batch.top_k = 2;
  s.call.out[0] = place_out(s, 0, 1, 16);
}

void fill_refine(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  fill_table(s, shape, layout, random);
  s.call.out[0] = place_out(s, 0, shape.n, 16);
  s.call.in[0] = s.call.out[0];
  fill_bounds(s.call.in[0], shape, true);
  s.call.in[1] = floats_in(s, 0, shape.k, shape, random);
  s.call.in[2] = floats_in(s, 1, shape.n, shape, random);
  s.call.in[3] = fill_least(s, 2, shape, random);
  s.units = (shape.n + kPanelRows - 1) / kPanelRows;
}

void fill_tail(Scene& s, const Shape& shape, std::string_view, Random& random) {
  s.ints = {static_cast<int32_t>(shape.n)};
  s.call.in[0] = floats_in(s, 0, shape.n, shape, random);
  s.call.in[1] = s.call.in[0];
  s.call.in[2] = s.call.in[3] = s.call.in[4] = floats_in(s, 1, 16, shape, random);
  s.floats.assign(static_cast<size_t>(shape.t), 0.75f);
  s.call.batch.temperatures = s.floats.data();
  s.call.batch.top_k = 2;
  s.call.out[0] = place_out(s, 0, 2, 16);
}

void fill_rescore(Scene& s, const Shape& shape, std::string_view layout, Random& random) {
  fill_table(s, shape, layout, random);
  s.call.in[0] = floats_in(s, 0, shape.k, shape, random);
  s.call.in[1] = floats_in(s, 1, shape.n, shape, random);
  fill_bounds(s.call.in[1], shape, true);
  s.call.in[2] = fill_least(s, 2, shape, random);
  s.call.out[0] = place_out(s, 0, shape.n, 16);
  s.units = (shape.n + kPanelRows - 1) / kPanelRows;
}

struct Recipe {
  std::string_view op;
  void (*fill)(Scene&, const Shape&, std::string_view layout, Random&);
};

constexpr Recipe kRecipes[] = {
    {"embedding", fill_embedding}, {"rmsnorm", fill_norm},         {"quantize", fill_norm},
    {"linear", fill_linear},       {"rope_kv", fill_rope},         {"attention", fill_attention},
    {"rope_kv_int8", fill_rope},   {"attention_int8", fill_attention},
    {"relu2_mul", fill_glu},       {"silu_mul", fill_glu},         {"output_rows", fill_output_rows},
    {"select", fill_select},       {"logits_projection", fill_logits}, {"rmsnorm_quantize", fill_norm},
    {"screen", fill_screen},       {"threshold", fill_threshold},  {"refine", fill_refine},
    {"rescore", fill_rescore},     {"tail", fill_tail},
};

// Each row in a slot of its own, at the borders of cache blocks and attention splits; no two write one place.
void fill_batch(Scene& s, const Shape& shape) {
  constexpr int32_t kPositions[] = {256, 0, 63, 100, 329, 5, 17, 31, 200};
  s.tokens.assign(static_cast<size_t>(shape.t), 0);
  s.positions.clear();
  s.slots.clear();
  s.outputs.clear();
  s.tiles.clear();
  s.block_tables.clear();
  for (int32_t r = 0; r < shape.t; ++r) {
    s.positions.push_back(kPositions[r % 9]);
    s.slots.push_back(r);
    s.outputs.push_back(r);
    for (int32_t b = 0; b < kTableWidth; ++b) s.block_tables.push_back((r + b) % kBlocks);
  }
  s.call.batch = {s.tokens.data(), s.positions.data(), s.slots.data(), s.block_tables.data(), kTableWidth,
                  s.outputs.data(), 0, nullptr, 0, nullptr, false};
}

}  // namespace

bool set_scene(Scene& s, std::string_view op, std::string_view layout, const Shape& shape) {
  constexpr int kSentinel = 0xa5;
  for (const Recipe& recipe : kRecipes) {
    if (recipe.op != op) continue;
    for (int i = 0; i < Scene::kInputs; ++i) std::memset(s.region(Scene::first_input + i), 0, Scene::kRowsBytes);
    for (int i = 0; i < Scene::kOutputs; ++i) std::memset(s.region(Scene::first_output + i), kSentinel, Scene::kRowsBytes);
    s.call = {};
    s.call.t = shape.t;
    s.call.kv_block = kBlock;
    s.call.scratch = reinterpret_cast<float*>(s.scratch.data());
    s.call.scratch_floats = Scene::kScratchBytes / 4;
    std::memset(s.region(Scene::sums), 0, Scene::kRegionBytes);
    s.done = 0;
    s.call.partials = {s.as<int32_t>(Scene::sums), Scene::kRegionBytes / 4 / kColumnTokens, 1, 0, &s.done};
    s.units = shape.t;
    fill_batch(s, shape);
    Random random;
    recipe.fill(s, shape, layout, random);
    s.call.ints = s.ints.data();
    s.call.floats = s.floats.data();
    return true;
  }
  return false;
}

}  // namespace tritium
