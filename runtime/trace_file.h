// TraceRecord: what a run measured of its step, in a file. `train` writes OUT/access_trace.json
// when its warm-up is over; `plan --from-trace` plans from it for other budgets, on any machine,
// and compares two. It holds all that the planner asks for, so that neither model nor data are
// needed.
//
//   write_text_file(path, to_json(record_trace(trainer.plan(), program, trainer.plan_report())));
//   const TraceRecord record = read_trace(path);
//   const PlanReport report = report_of(plan_trace(record, budgets), record.figures, record.rates);
//
// Values; thread-safe to read.
#pragma once

#include <string>
#include <vector>

#include "planner/access_trace.h"
#include "planner/plan.h"
#include "runtime/machine.h"
#include "runtime/plan_report.h"
#include "runtime/step_plan.h"

namespace hetmem {

struct TraceRecord {
  StepFigures figures;
  TierBudgets budgets;  // of the run
  MachineRates rates;   // the link's; the others are in the times
  AccessTrace training;
  AccessTrace evaluation;             // planned beside it
  std::vector<std::string> op_names;  // of training, by op: "linear model.layers.0.mlp.up_proj"
};

// The names of the ops of a training step.
std::vector<std::string> op_names(const StepTrace& trace, const Program& training);
TraceRecord record_trace(const RunPlan& run, const Program& training, const PlanReport& report);

std::string to_json(const TraceRecord& record);
// Throws Error (kBadInput) for a file that is none of these or whose parts do not fit together.
TraceRecord read_trace(const std::string& path);

// As the run would be planned for these budgets, in its own groups of micro-batches.
RunPlan plan_trace(const TraceRecord& record, const TierBudgets& budgets);

}  // namespace hetmem
