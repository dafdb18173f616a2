// Extents: which parts of a file are free. First fit, neighbours join when they are given back.
//
//   Extents extents(1 << 30);
//   const int64_t offset = extents.take(4096);   // -1: no part is large enough
//   extents.give_back(offset, 4096);
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>

namespace hetmem {

class Extents {
 public:
  explicit Extents(int64_t bytes);
  int64_t take(int64_t bytes);
  void give_back(int64_t offset, int64_t bytes);
  int64_t free_bytes() const { return free_bytes_; }
  int64_t largest_free() const;

 private:
  std::map<int64_t, int64_t> free_;  // offset: bytes
  int64_t free_bytes_;
};

}  // namespace hetmem
