// The static part of memory: where every value of a Program lives, and how many bytes of each kind
// that takes, known before anything is allocated. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "device/tier.h"
#include "graph/compile.h"
#include "runtime/train_config.h"

namespace hetmem {

// Tensors side by side in one block, each at a multiple of 64 bytes.
struct BlockLayout {
  std::vector<int64_t> offsets;
  int64_t bytes = 0;
};

struct MemoryPlan {
  BlockLayout weights;  // by Program::weights
  // By Program::weights; frozen ones take nothing, and none does where gradients are in the pool.
  BlockLayout gradients;
  // Gradients share the pool with activations: each from the step that makes it to the end.
  bool pooled_gradients = false;
  BlockLayout optimizer;                   // one moment, by Program::weights
  int moments = 0;                         // how many of those blocks: 2 for AdamW, 1 for SGD
  BlockLayout inputs;                      // inputs, constants and the loss, by value
  std::vector<int64_t> pool_offsets;       // by value: in the pool, -1 where it is not in it
  std::vector<int64_t> workspace_offsets;  // by step: in the pool
  BytesByKind pool{};                      // the pool's bytes by kind
  int64_t pool_lower_bound = 0;

  // Everything, by kind: what is reserved, and so the peak.
  BytesByKind bytes() const;
};

// `optimizer_moments`: fp32 tensors that the optimizer keeps for each trained weight.
// `pooled_gradients`: nothing is accumulated over micro-batches, so a gradient may take the place
// of activations that its backward step was the last to read.
MemoryPlan plan_memory(const Program& program, int optimizer_moments,
                       bool pooled_gradients = false);
// As a run of this configuration has it.
MemoryPlan plan_training_memory(const Program& program, const TrainConfig& config);

// Moments of an optimizer.
int moments_of(OptimizerKind optimizer);

}  // namespace hetmem
