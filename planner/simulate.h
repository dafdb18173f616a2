// The virtual-clock simulator: runs the actions of a Plan on its lanes, event by event, step after
// step until one takes as long as the one before. Early steps stand. What passes between memory and
// disk on its way takes its lane until the disk is through with it, too, which reads and writes in
// the order in which lanes ask it. Pure.
#pragma once

#include <vector>

#include "planner/access_trace.h"
#include "planner/plan.h"

namespace hetmem {

// In seconds from the start of the step; what goes on in the next one ends after it.
struct SimulatedAction {
  double begin = 0;
  double end = 0;
};

struct Simulation {
  double seconds = 0;          // from the start of a step to that of the next
  double exposed_seconds = 0;  // the compute lane stood still for a copy
  Traffic traffic;
  std::array<double, kLanes> busy{};
  double disk_busy = 0;                  // of reads and writes together; 0: nothing is shared
  std::vector<SimulatedAction> actions;  // by action
};

Simulation simulate(const AccessTrace& trace, const Plan& plan, const CopyRates& rates);

// What a disk that has nothing else to do takes for it.
double disk_seconds(const DiskUse& use, const CopyRates& rates);

}  // namespace hetmem
