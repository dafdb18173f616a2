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
  BlockLayout weights;                     // by Program::weights
  BlockLayout gradients;                   // by Program::weights; frozen ones take nothing
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
MemoryPlan plan_memory(const Program& program, int optimizer_moments);

// Moments of an optimizer.
int moments_of(OptimizerKind optimizer);

}  // namespace hetmem
