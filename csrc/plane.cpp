#include "plane.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "half.h"
#include "kernel.h"
#include "plan.h"
#include "thread_pool.h"

namespace tritium {

namespace {

constexpr float kMagic = 12582912.0f;  // 1.5·2²³: adding it leaves no bit behind the point
constexpr float kStep = 0.9f;          // each trial cuts off a tenth of the range of the codes
constexpr float kGain = 0.9f;          // and must leave so much less: of what the high halves cut off, low halves bring nothing back
constexpr int kTrials = 24;

// A number not below x ≥ 0; the same margin as in generic/screen.h.
float above(double x) { return static_cast<float>(x * (1.0 + 0x1p-20)) + 0x1p-149f; }

void decode_q8_0(const uint8_t* block, int64_t cols, float* out) {
  for (int64_t i = 0; i < cols; i += 32, block += 34) {
    const float scale = from_f16(half_at(block));
    for (int j = 0; j < 32; ++j) out[i + j] = scale * static_cast<float>(static_cast<int8_t>(block[2 + j]));
  }
}

// Halves of 128 weights: 64 bytes of nibbles and 32 of pairs, of which a byte serves the weights l, l + 32, l + 64 and l + 96.
void decode_q6_k(const uint8_t* block, int64_t cols, float* out) {
  for (int64_t i = 0; i < cols; i += 256, block += 210) {
    const float scale = from_f16(half_at(block + 208));
    for (int j = 0; j < 256; ++j) {
      const int half = j / 128, quarter = j % 128 / 32, l = j % 32;
      const int nibble = block[64 * half + 32 * (quarter % 2) + l] >> (quarter / 2 * 4) & 15;
      const int pair = block[128 + 32 * half + l] >> (2 * quarter) & 3;
      const float sub_scale = scale * static_cast<float>(static_cast<int8_t>(block[192 + j / 16]));
      out[i + j] = sub_scale * static_cast<float>((nibble | pair << 4) - 32);
    }
  }
}

void decode(const uint8_t* row, const std::string& layout, int64_t cols, float* out) {
  if (layout == "f32") {
    std::memcpy(out, row, static_cast<size_t>(4 * cols));
  } else if (layout == "f16") {
    for (int64_t i = 0; i < cols; ++i) out[i] = from_f16(half_at(row + 2 * i));
  } else if (layout == "bf16") {
    for (int64_t i = 0; i < cols; ++i) out[i] = from_bits(static_cast<uint32_t>(half_at(row + 2 * i)) << 16);
  } else if (layout == "q8_0") {
    decode_q8_0(row, cols, out);
  } else {
    decode_q6_k(row, cols, out);
  }
}

using quad = float __attribute__((vector_size(16)));

quad at_most(quad x, float limit) {
  const quad l = quad{} + limit;
  return x < l ? x : l;
}
quad at_least(quad x, float limit) {
  const quad l = quad{} + limit;
  return x > l ? x : l;
}
// floor(x) within ±2²², or one below a whole x: rounds x − 1/2.
quad round_down(quad x) { return ((x - 0.5f) + kMagic) - kMagic; }

// About Σ (w − p)² for high halves with this step between them. Rows are padded with zeros to whole quads.
float coarse_error(const float* w, int64_t cols, float step) {
  const float inverse = 1.0f / step;
  quad sum{};
  for (int64_t i = 0; i < cols; i += 4) {
    quad x;
    std::memcpy(&x, w + i, sizeof x);
    const quad code = at_least(at_most(round_down(x * inverse), 7.0f), -8.0f);
    const quad rest = x - (code + 0.5f) * step;
    sum += rest * rest;
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// A step that leaves little: from that which reaches the greatest weight down, as long as cutting off large ones costs less than the
// finer codes of the others bring. Any step is right: what it leaves is measured.
float choose_step(const float* w, int64_t cols, float greatest) {
  float step = greatest / 7.5f, error = coarse_error(w, cols, step);
  for (int i = 0; i < kTrials; ++i) {
    const float next = kStep * step, next_error = coarse_error(w, cols, next);
    if (!(next_error < kGain * error)) break;
    step = next;
    error = next_error;
  }
  return step;
}

struct RowBounds {
  float scale, coarse_residual, residual, norm;
};

// Codes of a row, one a byte, and what the bounds need of it.
RowBounds code_row(const float* w, int64_t cols, uint8_t* codes) {
  float greatest = 0;
  bool finite = true;
  for (int64_t i = 0; i < cols; ++i) {
    finite &= std::isfinite(w[i]);
    greatest = std::max(greatest, std::fabs(w[i]));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  if (!finite) {
    std::fill_n(codes, cols, uint8_t{0});
    return {0.0f, infinity, infinity, infinity};
  }
  // Below 2⁻¹⁰⁰ the scale is 0 and the residual the whole row.
  const float step = greatest >= 0x1p-100f ? choose_step(w, cols, greatest) : 0.0f;
  const float scale = 0.5f * step, fine = scale / 16.0f, inverse = step > 0 ? 16.0f / step : 0.0f;
  double squares[4] = {}, coarse[4] = {}, fines[4] = {}, coarse_rests[4] = {}, rests[4] = {};
  for (int64_t i = 0; i < cols; ++i) {
    const float down = ((w[i] * inverse - 0.5f) + kMagic) - kMagic;
    const int32_t code = static_cast<int32_t>(std::clamp(down, -128.0f, 127.0f)) + 128;
    const double exact = w[i], high = static_cast<double>(scale) * (2 * (code >> 4) - 15);
    const double both = static_cast<double>(fine) * (2 * code - 255);
    squares[i % 4] += exact * exact;
    coarse[i % 4] += high * high;
    fines[i % 4] += both * both;
    coarse_rests[i % 4] += (exact - high) * (exact - high);
    rests[i % 4] += (exact - both) * (exact - both);
    codes[i] = static_cast<uint8_t>(code);
  }
  const auto norm = [](const double* parts) { return std::sqrt((parts[0] + parts[1]) + (parts[2] + parts[3])); };
  return {scale, above(norm(coarse_rests)), above(norm(rests)), above(std::max({norm(squares), norm(coarse), norm(fines)}))};
}

// One row's codes and bounds to their places in a panel of high halves and one of low halves.
void place_row(const uint8_t* codes, const RowBounds& bounds, int64_t cols, int64_t r, const PlaneLayout& layout, uint8_t* high,
               uint8_t* low) {
  for (int64_t i = 0; i < cols; ++i) {
    high[64 * (i / 8) + 4 * r + i % 4] |= static_cast<uint8_t>((codes[i] >> 4) << i % 8 / 4 * 4);
    low[layout.low_row * r + 64 * (i / 128) + i % 64] |= static_cast<uint8_t>((codes[i] & 15) << i % 128 / 64 * 4);
  }
  const float coarse[3] = {bounds.scale, bounds.coarse_residual, bounds.norm};
  for (int64_t i = 0; i < 3; ++i) std::memcpy(high + 64 * layout.high_blocks + 4 * (kPanelRows * i + r), &coarse[i], 4);
  const float fine[4] = {bounds.scale / 16.0f, bounds.residual, bounds.norm, 0.0f};
  std::memcpy(low + kPanelRows * layout.low_row + 16 * r, fine, sizeof fine);
}

// Bytes of a row, 0 where a row cannot be of the layout.
int64_t bytes_of_row(const std::string& layout, int64_t cols) {
  if (layout != "f32" && layout != "f16" && layout != "bf16" && layout != "q8_0" && layout != "q6_k") {
    throw std::invalid_argument("layout " + layout + " has no plane");
  }
  return static_cast<int64_t>(resident_bytes(layout, 1, cols));
}

}  // namespace

bool all_finite(std::span<const uint8_t> data, const std::string& layout, int n_threads) {
  // A top exponent plus one in its last place carries into the sign's bit, and no further.
  uint64_t exponent, one, sign;
  if (layout == "f32") {
    exponent = 0x7F8000007F800000, one = 0x0080000000800000, sign = 0x8000000080000000;
  } else if (layout == "f16") {
    exponent = 0x7C007C007C007C00, one = 0x0400040004000400, sign = 0x8000800080008000;
  } else if (layout == "bf16") {
    exponent = 0x7F807F807F807F80, one = 0x0080008000800080, sign = 0x8000800080008000;
  } else {
    throw std::invalid_argument("layout " + layout + " is not one of floats");
  }
  constexpr int64_t kPiece = 1 << 18;
  const int64_t n = static_cast<int64_t>(data.size()), n_pieces = (n + kPiece - 1) / kPiece;
  std::atomic<uint64_t> carries{0};
  ThreadPool pool(n_threads > 1 ? static_cast<int>(std::clamp<int64_t>(n_pieces, 1, n_threads)) : n_threads);
  pool.run({n_pieces, 1, 1, true}, [&](int, int64_t begin, int64_t end) {
    uint64_t found = 0, x = 0;
    const int64_t stop = std::min(n, end * kPiece), whole = stop / 8 * 8;
    for (int64_t i = begin * kPiece; i < whole; i += 8) {
      std::memcpy(&x, data.data() + i, 8);
      found |= (x & exponent) + one;
    }
    x = 0;
    std::memcpy(&x, data.data() + whole, static_cast<size_t>(stop - whole));
    carries.fetch_or(found | ((x & exponent) + one), std::memory_order_relaxed);
  });
  return (carries.load(std::memory_order_relaxed) & sign) == 0;
}

Pages pack_plane(std::span<const uint8_t> data, const std::string& layout, int64_t rows, int64_t cols, int n_threads) {
  if (rows < 1 || cols < 1 || rows > (int64_t{1} << 28) || cols > kMaxScreenDepth) {
    throw std::invalid_argument("rows or columns out of range");
  }
  const int64_t row_bytes = bytes_of_row(layout, cols);
  if (row_bytes == 0 || static_cast<int64_t>(data.size()) != rows * row_bytes) {
    throw std::invalid_argument("expected " + std::to_string(rows * row_bytes) + " bytes, got " + std::to_string(data.size()));
  }
  const PlaneLayout place(rows, cols);
  Pages plane(static_cast<uint64_t>(place.nbytes), PageSize::huge);
  ThreadPool pool(n_threads);
  struct Worker {
    std::vector<float> row;
    std::vector<uint8_t> codes;
    float greatest = 0;
  };
  std::vector<Worker> workers(static_cast<size_t>(pool.size()));
  for (Worker& w : workers) w = {std::vector<float>(static_cast<size_t>(cols + 3)), std::vector<uint8_t>(static_cast<size_t>(cols)), 0};
  pool.run({place.n_panels, 16}, [&](int worker, int64_t begin, int64_t end) {
    Worker& me = workers[static_cast<size_t>(worker)];
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t r = 0; r < std::min(int64_t{kPanelRows}, rows - p * kPanelRows); ++r) {
        decode(data.data() + (p * kPanelRows + r) * row_bytes, layout, cols, me.row.data());
        const RowBounds bounds = code_row(me.row.data(), cols, me.codes.data());
        place_row(me.codes.data(), bounds, cols, r, place, plane.data() + p * place.high_panel,
                  plane.data() + place.low_begin + p * place.low_panel);
        me.greatest = std::max(me.greatest, bounds.norm);
      }
    }
  });
  float greatest = 0;
  for (const Worker& w : workers) greatest = std::max(greatest, w.greatest);
  std::memcpy(plane.data() + place.greatest_norm, &greatest, sizeof greatest);
  return plane;
}

}  // namespace tritium
