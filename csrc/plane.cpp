#include "plane.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernel.h"
#include "plan.h"
#include "thread_pool.h"

namespace tritium {

namespace {

constexpr int64_t kBlockBytes = 64;  // 16 rows × 4 columns
constexpr int64_t kTailFloats = 3 * kPanelRows;
constexpr float kMagic = 12582912.0f;  // 1.5·2²³: adding it leaves no bit behind the point

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// A number not below x ≥ 0; the same margin as in generic/screen.h.
float above(double x) { return static_cast<float>(x * (1.0 + 0x1p-20)) + 0x1p-149f; }

// Exponent and mantissa of float16 move to their places, a multiplication by 2^112 corrects the bias; the top exponent stays the top.
float from_f16(uint16_t half) {
  const uint32_t h = half;
  uint32_t bits;
  const float scaled = from_bits((h & 0x7FFFu) << 13) * 0x1p112f;
  std::memcpy(&bits, &scaled, sizeof bits);
  return from_bits(bits | ((h & 0x7C00u) == 0x7C00u ? 0x7F800000u : 0u) | (h & 0x8000u) << 16);
}

void decode(const uint8_t* row, const std::string& layout, int64_t cols, float* out) {
  if (layout == "f32") {
    std::memcpy(out, row, static_cast<size_t>(4 * cols));
    return;
  }
  const auto* halves = reinterpret_cast<const uint16_t*>(row);
  if (layout == "f16") {
    for (int64_t i = 0; i < cols; ++i) out[i] = from_f16(halves[i]);
  } else {
    for (int64_t i = 0; i < cols; ++i) out[i] = from_bits(static_cast<uint32_t>(halves[i]) << 16);
  }
}

// What the bounds need of a row, and its codes: bytes q + 128 at out + 64·(k / 4) + k % 4.
struct RowBounds {
  float scale, residual, norm;
};

RowBounds pack_row(const float* w, int64_t cols, uint8_t* out) {
  float greatest = 0;
  bool finite = true;
  for (int64_t i = 0; i < cols; ++i) {
    finite &= std::isfinite(w[i]);
    greatest = std::max(greatest, std::fabs(w[i]));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  if (!finite) return {0.0f, infinity, infinity};
  const float scale = greatest / 127.0f, inverse = 127.0f / greatest;
  // Below 2⁻¹⁰⁰ the codes stay 0 and the residual is the whole row. Any codes are right: the residual is measured.
  const bool coded = greatest >= 0x1p-100f;
  double squares[4] = {}, residuals[4] = {}, planes[4] = {};
  for (int64_t i = 0; i < cols; ++i) {
    const float code = coded ? std::clamp((w[i] * inverse + kMagic) - kMagic, -127.0f, 127.0f) : 0.0f;
    const double exact = w[i], plane = static_cast<double>(scale) * code, rest = exact - plane;
    squares[i % 4] += exact * exact;
    planes[i % 4] += plane * plane;
    residuals[i % 4] += rest * rest;
    out[kBlockBytes * (i / 4) + i % 4] = static_cast<uint8_t>(static_cast<int32_t>(code) + 128);
  }
  const auto norm = [](const double* parts) { return std::sqrt((parts[0] + parts[1]) + (parts[2] + parts[3])); };
  return {scale, above(norm(residuals)), above(std::max(norm(squares), norm(planes)))};
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
  if (layout != "f32" && layout != "f16" && layout != "bf16") throw std::invalid_argument("layout " + layout + " has no plane");
  if (rows < 1 || cols < 1 || rows > (int64_t{1} << 28) || cols > kMaxScreenDepth) {
    throw std::invalid_argument("rows or columns out of range");
  }
  const int64_t row_bytes = cols * (layout == "f32" ? 4 : 2);
  if (static_cast<int64_t>(data.size()) != rows * row_bytes) {
    throw std::invalid_argument("expected " + std::to_string(rows * row_bytes) + " bytes, got " + std::to_string(data.size()));
  }
  if (reinterpret_cast<uintptr_t>(data.data()) % 2 != 0) throw std::invalid_argument("not aligned to its elements");
  const int64_t n_panels = (rows + kPanelRows - 1) / kPanelRows, n_blocks = (cols + 3) / 4;
  const int64_t panel_bytes = n_blocks * kBlockBytes + kTailFloats * 4;
  Pages plane(resident_bytes("plane8", rows, cols), PageSize::huge);
  ThreadPool pool(n_threads);
  std::vector<std::vector<float>> decoded(static_cast<size_t>(pool.size()), std::vector<float>(static_cast<size_t>(cols)));
  std::vector<float> greatest(static_cast<size_t>(pool.size()), 0.0f);
  pool.run({n_panels, 16}, [&](int worker, int64_t begin, int64_t end) {
    float* row = decoded[static_cast<size_t>(worker)].data();
    for (int64_t p = begin; p < end; ++p) {
      uint8_t* panel = plane.data() + p * panel_bytes;
      std::memset(panel, 128, static_cast<size_t>(n_blocks * kBlockBytes));
      float tail[kTailFloats] = {};
      for (int64_t r = 0; r < std::min(int64_t{kPanelRows}, rows - p * kPanelRows); ++r) {
        decode(data.data() + (p * kPanelRows + r) * row_bytes, layout, cols, row);
        const RowBounds bounds = pack_row(row, cols, panel + 4 * r);
        tail[r] = bounds.scale;
        tail[kPanelRows + r] = bounds.residual;
        tail[2 * kPanelRows + r] = bounds.norm;
        float& most = greatest[static_cast<size_t>(worker)];
        most = std::max(most, bounds.norm);
      }
      std::memcpy(panel + n_blocks * kBlockBytes, tail, sizeof tail);
    }
  });
  const float most = *std::max_element(greatest.begin(), greatest.end());
  std::memcpy(plane.data() + n_panels * panel_bytes, &most, sizeof most);
  return plane;
}

}  // namespace tritium
