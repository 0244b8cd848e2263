// The container of tritium-driver's input and output: sections of a 64-byte header (tag char[8], size u64, argument i64, zeros)
// and data, padded with zeros to a multiple of 64. src/tritium/bundle.py writes and reads it, and lists the tags.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "platform.h"

namespace tritium {

struct SectionHeader {
  char tag[8];
  uint64_t nbytes;
  int64_t argument;
  uint8_t zero[40];
};
static_assert(sizeof(SectionHeader) == kAlignment);

struct Section {
  std::string_view tag;
  int64_t argument;
  std::span<const uint8_t> data;  // on a multiple of 64 bytes
};

inline uint64_t padded(uint64_t nbytes) { return (nbytes + kAlignment - 1) / kAlignment * kAlignment; }

// A file, open until the end of its scope. Throws std::system_error.
class File {
 public:
  File(const std::string& path, const char* mode) : path_(path), file_(std::fopen(path.c_str(), mode)) {
    if (file_ == nullptr) fail();
  }
  ~File() { std::fclose(file_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  Pages read() {
    Pages bytes(std::filesystem::file_size(path_));
    if (std::fread(bytes.data(), 1, bytes.size(), file_) != bytes.size()) fail();
    return bytes;
  }
  void write(const void* data, size_t nbytes) {
    if (std::fwrite(data, 1, nbytes, file_) != nbytes) fail();
  }
  void flush() {
    if (std::fflush(file_) != 0) fail();
  }

 private:
  [[noreturn]] void fail() const { throw std::system_error(errno, std::generic_category(), path_); }

  std::string path_;
  std::FILE* file_;
};

class SectionReader {
 public:
  explicit SectionReader(std::span<const uint8_t> bytes) : left_(bytes) {}

  std::optional<Section> next() {
    if (left_.empty()) return std::nullopt;
    const uint8_t* header = take(sizeof(SectionHeader)).data();
    SectionHeader h;
    std::memcpy(&h, header, sizeof h);
    if (h.nbytes > left_.size()) fail();
    const std::span<const uint8_t> data = take(padded(h.nbytes)).first(h.nbytes);
    const char* tag = reinterpret_cast<const char*>(header);
    return Section{{tag, strnlen(tag, sizeof h.tag)}, h.argument, data};
  }

 private:
  [[noreturn]] static void fail() { throw std::invalid_argument("the bundle ends in the middle of a section"); }

  std::span<const uint8_t> take(uint64_t n) {
    if (n > left_.size()) fail();
    const std::span<const uint8_t> taken = left_.first(n);
    left_ = left_.subspan(n);
    return taken;
  }

  std::span<const uint8_t> left_;
};

class SectionWriter {
 public:
  explicit SectionWriter(const std::string& path) : file_(path, "wb") {}

  // A section is begun with its size, and its data may be put in pieces.
  void begin(std::string_view tag, uint64_t nbytes) {
    SectionHeader h{};
    std::memcpy(h.tag, tag.data(), tag.size());
    h.nbytes = nbytes;
    file_.write(&h, sizeof h);
    open_ = padded(nbytes);
  }
  void put(const void* data, uint64_t nbytes) {
    file_.write(data, nbytes);
    open_ -= nbytes;
  }
  void end() {
    const uint8_t zero[kAlignment] = {};
    file_.write(zero, open_);
  }
  void add(std::string_view tag, const void* data, uint64_t nbytes) {
    begin(tag, nbytes);
    put(data, nbytes);
    end();
  }
  void flush() { file_.flush(); }

 private:
  File file_;
  uint64_t open_ = 0;
};

}  // namespace tritium
