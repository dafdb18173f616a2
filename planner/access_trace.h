// AccessTrace: what the planner knows of a training step. Ops in the order in which the compute
// stream runs them, with their times; for each chunk the ops that use it; the memory that is not
// in chunks. Made from the Program with assumed rates, then with the times that a step measured
// (the warm-up of PatrickStar, section 4, without its sampling). A value; thread-safe to read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/memory_kind.h"

namespace hetmem {

// Memory that is not in chunks: activations, temporaries, workspace. Ops count from 0; both ends
// are included.
struct TraceBuffer {
  int64_t bytes = 0;
  MemoryKind kind = MemoryKind::kActivationsTemporary;
  int first = 0;
  int last = 0;
};

// Ops [first, last].
struct OpRun {
  int first = 0;
  int last = 0;
};

struct TraceChunk {
  int64_t weight_bytes = 0;
  int64_t gradient_bytes = 0;   // 0: frozen
  int64_t optimizer_bytes = 0;  // m and v, and the low half of split weights
  // What each of these takes on a disk beside its bytes, which passes with them.
  int64_t weight_trailers = 0;
  int64_t gradient_trailers = 0;
  int64_t optimizer_trailers = 0;
  // Ops that read the weights; the runs of ops between whose ends the gradient is made or added to:
  // the first run begins it, the next ones (of later micro-batches, or of a tied weight's other
  // use) go on with it, and after the last it is complete.
  std::vector<int> reads;
  std::vector<OpRun> writes;
  // The gradient may take the place of the weights: both are of one width, and none is read after
  // the first gradient is made.
  bool in_place = false;
  double device_step_seconds = 0;
  double host_step_seconds = 0;
  // Of a step whose result goes to spare memory, because it is taken before the norm is known.
  double early_step_seconds = 0;

  int64_t state_bytes() const { return weight_bytes + optimizer_bytes; }
  bool trained() const { return gradient_bytes > 0; }
};

struct AccessTrace {
  int64_t group = 1;  // micro-batches that pass a chunk before the next one is brought
  std::vector<double> op_seconds;
  std::vector<TraceBuffer> buffers;
  std::vector<TraceChunk> chunks;
  // Device memory outside of the pool (inputs, constants, scalars), and what a step copies of it.
  int64_t fixed_bytes = 0;
  int64_t input_bytes = 0;
  int64_t output_bytes = 0;
  // Work on the host takes its time from the compute lane (the CPU device).
  bool host_shares_compute = false;

  int ops() const { return static_cast<int>(op_seconds.size()); }
};

// Bytes a second of the copies between device and host, and between host and disk.
struct CopyRates {
  double to_device = 0;
  double to_host = 0;
  double disk_read = 0;
  double disk_write = 0;
  double disk_both = 0;  // of as much of each at once; 0: neither takes from the other
};

}  // namespace hetmem
