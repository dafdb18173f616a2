// The best plan of a small step by trying all: which chunks stay, and for each other chunk between
// which of its uses it is held; with copies as early as memory and their order allow.
#pragma once

#include "planner/plan.h"

namespace hetmem {

// Seconds of the best step that packs into the budget; for traces with one run of writes a chunk.
double exhaustive_best_seconds(const AccessTrace& trace, const TierBudgets& budgets,
                               const CopyRates& rates);

}  // namespace hetmem
