// StepTimeline: one training step over time, as its plan has it: what each lane does when, and what
// is in each tier's memory meanwhile. The run report draws it and --trace writes it. Pure.
//
//   const Simulation simulation = simulate(trace, plan, rates.copies);
//   const StepTimeline timeline = make_timeline(trace, plan, simulation);
//
// Values; thread-safe to read.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/memory_kind.h"
#include "planner/access_trace.h"
#include "planner/plan.h"
#include "planner/simulate.h"

namespace hetmem {

struct LaneSpan {
  int action = 0;  // of the plan
  double begin = 0;
  double end = 0;
};

// What is in use from a moment on, until that of the next sample.
struct MemorySample {
  double seconds = 0;
  BytesByKind bytes{};
};

struct TierTimeline {
  int64_t budget = 0;
  int64_t reserved = 0;  // all through the step: the plan's peak
  std::vector<MemorySample> samples;
};

struct StepTimeline {
  double seconds = 0;
  std::array<std::vector<LaneSpan>, kLanes> lanes;
  TierTimeline device;
  TierTimeline host;
  TierTimeline disk;  // no bytes: nothing is there
};

// Steps follow each other: what goes on after the end of a step is seen at its beginning. An action
// that reads or writes a disk is on that lane, too.
//
// The device holds what the plan has in its place at each op (kinds as in Plan::pool_by_kind), and
// the chunks that stay. Host and disk hold the others, where they are at home; a gradient waits
// there from the copy that brings it to the optimizer's step, and what a chunk that is stepped
// early becomes is beside what it was until the norm is known.
StepTimeline make_timeline(const AccessTrace& trace, const Plan& plan,
                           const Simulation& simulation);

// What a lane and an action are called: "compute", "fetch weights of chunk 3".
std::string lane_name(Lane lane);
std::string action_name(const Plan& plan, const Action& action,
                        const std::vector<std::string>& op_names);

}  // namespace hetmem
