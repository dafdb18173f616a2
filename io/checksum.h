// Checksum: XXH3-128 of bytes that come in pieces. FileSum: what a file should hold, summed up from
// the bytes that were meant for it, not from those that a disk gives back. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace hetmem {

class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(Checksum&&) noexcept;
  Checksum& operator=(Checksum&&) noexcept;
  void update(const void* data, int64_t bytes);
  int64_t bytes() const { return bytes_; }
  // Sixteen hexadecimal bytes, in the canonical (big-endian) form.
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  int64_t bytes_ = 0;
};

struct FileSum {
  std::string name;  // in its folder
  int64_t bytes = 0;
  std::string xxh3_128;
};

// Writes a file of a folder that is made as a whole (AtomicDirectory syncs it).
FileSum write_summed_file(const std::string& folder, const std::string& name,
                          std::string_view text);

}  // namespace hetmem
