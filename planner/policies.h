// Other trainers' rules for the same step and the same budgets, to compare plans with. They run on
// a virtual clock with the lanes of simulate(), but count bytes alone: memory never falls into
// fragments for them. A step in the steady state is reported. Pure.
#pragma once

#include "planner/access_trace.h"
#include "planner/plan.h"

namespace hetmem {

enum class Policy {
  // PatrickStar (arXiv 2108.05818, and its source): a chunk is brought when an op needs it, by a
  // copy
  // for which compute waits; the victim is the chunk whose next use is farthest and is always
  // copied
  // back, even where it was not written; a gradient takes the place of its weights; the optimizer
  // runs after the backward pass, chunk by chunk, for the first chunks on the device as far as 0.8
  // of
  // the room left by weights and activations goes, else on the host. Without its warm-up's limits,
  // and with the whole budget instead of 0.8 of it.
  kPatrickStar,
  // The same choice of victims and of chunks stepped on the device (with all of the room), but
  // copies
  // on demand are asynchronous, gradients leave when they are complete, and what was not written is
  // dropped.
  kBelady,
};

struct PolicyRun {
  bool fits = false;
  double step_seconds = 0;
  Traffic traffic;
};

PolicyRun simulate_policy(const AccessTrace& trace, const TierBudgets& budgets,
                          const CopyRates& rates, Policy policy);

}  // namespace hetmem
