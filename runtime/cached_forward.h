// CachedForward: the forward graph of a model over T new tokens of one sequence that follow others.
// It is the graph of the model's builder, compiled as for evaluation and run op by op with three
// changes: attention reads and extends a KeyValueCache, positions begin where the new tokens do,
// and the head gives the logits of the last token instead of a loss.
//
// A pass is planned first (pure), then bound to memory that belongs to the caller and that passes
// of different T share. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "device/stream.h"
#include "device/tier.h"
#include "graph/compile.h"
#include "io/model_config.h"
#include "ops/ops.h"
#include "runtime/memory_plan.h"

namespace hetmem {

// Keys and values fp32 of one sequence, by layer. Owns its memory, reserved in a tier.
class KeyValueCache {
 public:
  KeyValueCache() = default;
  KeyValueCache(const ModelConfig& model, int64_t positions, Tier& device);
  static int64_t bytes(const ModelConfig& model, int64_t positions);
  // The rows of a layer, to be extended from `position` on.
  ops::KeyValueRows rows(int layer, int64_t position) const;

 private:
  Shape shape_;  // of the keys of one layer
  Buffer buffer_;
};

// Where the operands of a pass are.
struct ForwardMemory {
  std::vector<TensorView> weights;  // by Program::weights
  TensorView tokens;                // int32, at least T
  TensorView rope;                  // fp32 [positions, D]; empty for a model without
  const Buffer* pool = nullptr;     // at least pool_bytes()
  const KeyValueCache* cache = nullptr;
};

class CachedForward {
 public:
  // `device`: whose kernels run it.
  CachedForward(const ModelConfig& model, int64_t tokens, DeviceKind device);

  const MemoryPlan& memory_plan() const { return plan_; }
  const Program& program() const { return program_; }
  // `memory` must outlive the runs.
  void bind(const ForwardMemory& memory);
  // Enqueues the pass over the ids in ForwardMemory::tokens, which are at [position, position + T).
  // Without `logits` the head is left out.
  void run(Stream& stream, int64_t position, bool logits) const;
  // fp32 [1,V] of the last token, in the pool: valid until another pass is enqueued.
  TensorView logits() const { return logits_; }

 private:
  TensorView place(ValueId id, const ForwardMemory& memory) const;

  Program program_;
  MemoryPlan plan_;
  std::vector<OpCall> calls_;  // by step
  TensorView logits_;
  const KeyValueCache* cache_ = nullptr;
};

}  // namespace hetmem
