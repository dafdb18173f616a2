// The virtual-clock simulator: runs the actions of a Plan on its lanes, event by event. Pure.
#pragma once

#include <vector>

#include "planner/access_trace.h"
#include "planner/plan.h"

namespace hetmem {

struct SimulatedAction {
  double begin = 0;
  double end = 0;
};

struct Simulation {
  double seconds = 0;          // of one step, everything done
  double exposed_seconds = 0;  // the compute lane stood still for a copy
  Traffic traffic;
  std::array<double, kLanes> busy{};
  std::vector<SimulatedAction> actions;  // by action
};

Simulation simulate(const AccessTrace& trace, const Plan& plan, const CopyRates& rates);

}  // namespace hetmem
