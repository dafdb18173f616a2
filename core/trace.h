// Trace ranges: what ran when on which track, written as a Chrome/Perfetto JSON trace. Off until
// start(); a range then costs two clock reads. Thread-safe.
//
//   trace::start();
//   { trace::Range range("compute", "attention"); ... }
//   trace::write("trace.json");
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hetmem::trace {

bool enabled();
void start();
// Writes what was recorded since start() and stops. Throws Error (kStorage) on failure.
void write(const std::string& path);
// A sample of a counter track ("device bytes").
void counter(std::string_view track, int64_t value);

class Range {
 public:
  // Both names must outlive the range.
  Range(std::string_view track, std::string_view name);
  ~Range();
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  std::string_view track_;
  std::string_view name_;
  int64_t begin_ns_ = -1;
};

}  // namespace hetmem::trace
