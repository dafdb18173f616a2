// Which chunks the host steps before the norm of the gradient is known, and in which order it steps
// all of them: of those whose gradient is there the one that is needed soonest (EDF). Part of
// make_plan(). Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/access_trace.h"
#include "planner/plan.h"
#include "planner/simulate.h"

namespace hetmem::planner {

// When the host can do what, in seconds from the start of a step.
struct HostTimes {
  std::vector<double> arrival;  // by chunk: its gradient is there; what has none: 0
  double norm = 0;              // it is known
  double free = 0;              // the steps of the step before are done
};

// By the clock of the ops alone, for residencies that are chosen.
HostTimes expected_times(const AccessTrace& trace, const Plan& plan, const CopyRates& rates);
// As they were in a simulation of the plan.
HostTimes times_of(const AccessTrace& trace, const Plan& plan, const Simulation& simulation);

// Fills host_order and early of a plan whose residencies are chosen. Early chunks take at most
// `spare` bytes; those whose gradients come last go first, because they are needed soonest.
void schedule_host_steps(const AccessTrace& trace, const HostTimes& times, int64_t spare,
                         Plan& plan);

// Whether the host steps the chunk.
bool on_host(const AccessTrace& trace, const Plan& plan, size_t chunk);

// The op of the next step that a chunk has to be stepped for.
int first_use(const TraceChunk& chunk);

}  // namespace hetmem::planner
