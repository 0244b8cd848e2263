// Arbitrary shapes and bytes as ternary tensors to be packed: refused, or packed inside the memory that is there.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "pack.h"

namespace {

constexpr size_t kMaxParts = 4;

struct Header {
  int64_t rows, cols;
  uint32_t nbytes;
  uint8_t dialect;
};
constexpr size_t kHeaderBytes = 21;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<tritium::PackPart> parts;
  std::vector<std::vector<uint8_t>> codes;
  codes.reserve(kMaxParts);
  while (size >= kHeaderBytes && parts.size() < kMaxParts) {
    Header header;
    std::memcpy(&header, data, kHeaderBytes);
    data += kHeaderBytes;
    size -= kHeaderBytes;
    const size_t n = std::min<size_t>(header.nbytes, size);
    codes.emplace_back(data, data + n);
    parts.push_back({codes.back(), header.rows, header.cols, 0.5f, static_cast<tritium::Dialect>(header.dialect % 4)});
    data += n;
    size -= n;
  }
  for (const char* layout : {"i2s", "tq1"}) {
    try {
      tritium::pack_panels(parts, 1, layout);
    } catch (const std::invalid_argument&) {
    }
  }
  return 0;
}
