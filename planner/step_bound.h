// The least that a step of a plan can take, and what shortens it most. Part of make_plan(). Pure.
#pragma once

#include "planner/access_trace.h"
#include "planner/plan.h"

namespace hetmem::planner {

struct StepBound {
  // No order of the plan's actions is faster: each lane, and the disk where reads and writes share
  // it, takes as long as all that it does; and between the first use of a chunk and the last of its
  // gradient lie the ops between them, then, for all chunks whose gradients are complete no earlier
  // and whose weights are needed no later, the host's steps.
  double seconds = 0;
  // What makes the step fastest where it is twice as fast ("compute", "copies to the device", ...):
  // what to buy. Where nothing makes a difference of its own, what is busy longest.
  const char* limited_by = "";
};
StepBound step_bound(const AccessTrace& trace, const Plan& plan, const CopyRates& rates);

}  // namespace hetmem::planner
