// Byte budgets: what `auto` means on this machine, and whether a plan fits. Thread-safe.
#pragma once

#include <cstdint>

#include "device/tier.h"
#include "runtime/memory_plan.h"
#include "runtime/train_config.h"

namespace hetmem {

struct Budgets {
  int64_t device = 0;
  int64_t host = 0;
};

// The budgets of a run: explicit ones exactly, `auto` up to 90 % of what is free, device first.
// Does not throw where a plan does not fit.
Budgets budgets_of(const TrainConfig& config);
// The same, checked: throws Error (kDoesNotFit) naming the smallest device budget that works.
Budgets resolve_budgets(const TrainConfig& config, const MemoryPlan& training,
                        const MemoryPlan& evaluation);
// The smallest device budget that works: the larger of the two peaks.
int64_t smallest_device_memory(const MemoryPlan& training, const MemoryPlan& evaluation);

}  // namespace hetmem
