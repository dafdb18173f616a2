// The plans of a run: one for a training step, one for evaluation beside it, over the same chunks
// and within the same budgets. Pure.
#pragma once

#include <map>
#include <tuple>

#include "graph/compile.h"
#include "io/model_config.h"
#include "planner/chunk_layout.h"
#include "planner/plan.h"
#include "runtime/machine.h"
#include "runtime/step_trace.h"
#include "runtime/train_config.h"

namespace hetmem {

// What is planned for: the Programs of a configuration and the chunks of their weights. Stays where
// it is while plans and executors refer to it.
struct RunPrograms {
  RunPrograms(const ModelConfig& model, const TrainConfig& config, int64_t sequence);
  Program training;    // one micro-batch
  Program evaluation;  // the forward pass alone
  ChunkLayout layout;
};

struct PlannedStep {
  StepTrace trace;
  Plan plan;
};

struct RunPlan {
  PlannedStep training;
  PlannedStep evaluation;
  TierBudgets budgets;
  bool fits() const { return training.plan.fits && evaluation.plan.fits; }
  // With this host budget; -1: no device budget is enough.
  int64_t smallest_device = -1;
};

// Times as a step measured them, by what an op is, so that they serve plans of other groups too.
class MeasuredTimes {
 public:
  // `resident`: the chunks that were stepped on the device.
  void take(const StepTrace& trace, const std::vector<double>& op_seconds,
            const std::vector<double>& update_seconds, const std::vector<bool>& resident);
  void apply(StepTrace& trace) const;
  bool empty() const { return op_seconds_.empty(); }

 private:
  using Key = std::tuple<int, int, int, int64_t, int64_t>;
  static Key key_of(const OpInstance& op);
  void apply_updates(AccessTrace& trace) const;
  std::map<Key, double> op_seconds_;
  std::vector<double> update_seconds_;  // by chunk
  std::vector<bool> resident_;
};

// `early`: chunks may be stepped before the norm is known. `smallest`: the least device memory,
// where a plan for these budgets has found it already; looking at all groupings takes time.
RunPlan plan_run(const RunPrograms& programs, const TrainConfig& config, const MachineRates& rates,
                 const TierBudgets& budgets, const MeasuredTimes* measured, bool early,
                 int64_t smallest = -1);
// The same before anything is known of norms.
RunPlan plan_run(const RunPrograms& programs, const TrainConfig& config, const MachineRates& rates,
                 const TierBudgets& budgets);

// The same over traces alone: of a step with all its micro-batches in the group that the trace has,
// and of evaluation.
RunPlan plan_traces(const AccessTrace& training, const AccessTrace& evaluation,
                    const TierBudgets& budgets, const CopyRates& copies);

// The budgets of a run: explicit ones exactly; `auto` what a described machine has, else up to 90 %
// of what is free: of each memory, or of the one that a processor has, device first. Throws Error
// (kBadInput) for `auto` on a GPU that is not here. What the run holds already counts as free.
struct HeldBytes {
  int64_t device = 0;
  int64_t host = 0;
};
TierBudgets budgets_of(const TrainConfig& config, const MachineRates& machine = {},
                       const HeldBytes& held = {});

// Throws Error (kDoesNotFit) naming the smallest device budget that works.
[[noreturn]] void refuse(const RunPlan& plan, const TierBudgets& budgets);

// Moments of an optimizer.
MomentLists moments_of(OptimizerKind optimizer);

}  // namespace hetmem
