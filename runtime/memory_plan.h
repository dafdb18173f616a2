// The memory of a Program that runs on its own, without chunks (text generation): where every value
// lives, and how many bytes of each kind that takes, known before anything is allocated. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "core/memory_kind.h"
#include "graph/compile.h"

namespace hetmem {

// Tensors side by side in one block, each at a multiple of 64 bytes.
struct BlockLayout {
  std::vector<int64_t> offsets;
  int64_t bytes = 0;
};

struct MemoryPlan {
  BlockLayout weights;                     // by Program::weights
  BlockLayout inputs;                      // inputs, constants and the loss, by value
  std::vector<int64_t> pool_offsets;       // by value: in the pool, -1 where it is not in it
  std::vector<int64_t> workspace_offsets;  // by step: in the pool
  BytesByKind pool{};                      // the pool's bytes by kind
  int64_t pool_lower_bound = 0;

  // Everything, by kind: what is reserved, and so the peak.
  BytesByKind bytes() const;
};

MemoryPlan plan_memory(const Program& program);

}  // namespace hetmem
