// A training step as the compute stream runs it: the steps of the Program for every micro-batch, in
// the parts in which they take tables, and the norms of the gradients; and what the planner has to
// know of that. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/op.h"
#include "device/stream.h"
#include "graph/compile.h"
#include "planner/access_trace.h"
#include "planner/chunk_layout.h"
#include "runtime/machine.h"
#include "runtime/train_config.h"

namespace hetmem {

// The chunks of a Program's weights, by Program::weights.
ChunkLayout layout_of(const Program& program, DType moments = DType::kFloat32);

// One op of the trace.
struct OpInstance {
  int step = -1;      // of the Program; -1: the norm of the gradients of `chunk`
  int64_t micro = 0;  // which micro-batch of the step
  OpPart part;
  int chunk = -1;
};

// Device memory outside of the pool: what the caller fills before a step, and scalars.
struct FixedLayout {
  std::vector<int64_t> constants;  // offsets by value; -1: no constant
  int64_t loss = 0;
  int64_t norms = 0;   // fp64 by piece: sums of squares
  int64_t tokens = 0;  // int32 [micro-batches, tokens, then labels]
  int64_t micro_batch_bytes = 0;
  int64_t bytes = 0;
};

struct StepTrace {
  AccessTrace access;
  std::vector<OpInstance> ops;               // by op of the trace
  std::vector<std::vector<int>> buffers;     // by micro-batch, by value: index of its buffer or -1
  std::vector<int> workspaces;               // by op: index of its buffer or -1
  std::vector<std::vector<int>> norm_slots;  // by chunk, by piece: index of its sum of squares
  FixedLayout fixed;
};

struct StepTraceOptions {
  int64_t micro_batches = 1;
  int64_t group = 1;  // micro-batches that pass a chunk before the next one is brought
  MomentLists moments{2, DType::kFloat32};
  DeviceKind device = DeviceKind::kCpu;  // whose kernels take tables in parts
};

// With op times by the costs of the Program and the rates of a machine.
StepTrace trace_step(const Program& program, const ChunkLayout& layout,
                     const StepTraceOptions& options, const MachineRates& rates);

// The pieces that an op works on of an operand that is a weight or a gradient; none where this part
// of the op leaves it alone.
std::vector<PieceOf> pieces_of_operand(const Program& program, const ChunkLayout& layout,
                                       const OpInstance& op, ValueId operand, bool written);

// The index in Program::weights of a weight or of the weight of a gradient, or -1.
int weight_index(const Program& program, ValueId value);

}  // namespace hetmem
