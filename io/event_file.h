// EventFile: a file of scalars that TensorBoard reads while it grows. Records in the framing of
// TFRecord (length, data, masked CRC-32C of both) hold Event messages of TensorFlow's event.proto,
// encoded here: the few fields that scalars need are less than a protobuf library. Each call
// reaches the file before it returns. Not thread-safe.
//
//   EventFile events(folder + "/events.out.tfevents.1", now_in_seconds);
//   events.write_scalars(now_in_seconds, step, std::array{Scalar{"train/loss", 2.5}});
//
// Sources: tensorflow/core/lib/io/record_writer.h (framing), core/util/event.proto and
// core/framework/summary.proto (field numbers).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "io/file.h"

namespace hetmem {

struct Scalar {
  std::string_view tag;
  double value;  // a float in the file
};

class EventFile {
 public:
  // Creates the file with the record that names its version. Times are seconds since 1970. Throws
  // Error as File does; all writes do (kStorage).
  EventFile(const std::string& path, double wall_time);
  void write_scalars(double wall_time, int64_t step, std::span<const Scalar> scalars);
  // From here on the run repeats `step` and what follows: readers drop what they have of it.
  void write_restart(double wall_time, int64_t step);

 private:
  void append(const std::string& event);
  File file_;
  int64_t end_ = 0;
};

// CRC-32C (Castagnoli), as in RFC 3720.
uint32_t crc32c(std::string_view bytes);

}  // namespace hetmem
