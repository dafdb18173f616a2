// Trace ranges: what ran when on which track, written as a Chrome/Perfetto JSON trace. Off until
// start(); a range then costs two clock reads. Thread-safe.
//
//   trace::start();
//   { trace::Range range("compute", "attention"); ... }
//   trace::write("trace.json");
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hetmem::trace {

// What did not happen here but is to be seen beside it (a step as it was planned): tracks and
// counters with a clock of their own.
struct Span {
  std::string track;
  std::string name;
  double begin_seconds = 0;
  double seconds = 0;
};
struct Sample {
  std::string track;
  double seconds = 0;
  std::vector<std::pair<std::string, int64_t>> values;  // stacked on each other
};
struct Process {
  std::string name;
  std::vector<Span> spans;
  std::vector<Sample> samples;
};

bool enabled();
// Of a long run the newest ranges and samples are kept, `most` of them.
void start(size_t most = 400'000);
// Records nothing more.
void stop();
// Writes what was recorded since start() and stops. Throws Error (kStorage) on failure.
void write(const std::string& path, const std::vector<Process>& beside = {});
// A sample of a counter track ("device memory").
void counter(std::string_view track, int64_t value) noexcept;

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
