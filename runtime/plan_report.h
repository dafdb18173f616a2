// What `hetmem plan` answers: whether a run fits, the predicted peak of each tier by kind, and how
// long a step takes. Pure but for the free memory that `auto` budgets ask for; reads config.json
// alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/step_plan.h"
#include "runtime/train_config.h"

namespace hetmem {

// What is said of a step beside its plan.
struct StepFigures {
  int64_t parameters = 0;
  int64_t tokens_per_step = 0;
  int64_t micro_batches = 1;
  size_t chunks = 0;
  int64_t chunk_bytes = 0;  // capacity
  double chunk_waste = 0;
  int64_t disk_file_bytes = 0;  // taken from the start; 0: not known, or there is no disk
};

struct PlanReport : StepFigures {
  bool fits = false;
  TierPlan device;
  TierPlan host;
  TierPlan disk;
  double step_seconds = 0;  // meaningless where it does not fit
  double lower_bound_seconds = 0;
  std::string limited_by;
  int64_t smallest_device_memory = -1;  // -1: no device budget is enough
  Traffic traffic;
  MachineRates rates;
  // How the memory is managed.
  size_t resident_chunks = 0;
  int64_t group = 1;
};

PlanReport make_plan(const TrainConfig& config);
// Of a plan that is there already.
PlanReport report_of(const RunPlan& run, const RunPrograms& programs, const TrainConfig& config,
                     int64_t sequence, const MachineRates& rates);
PlanReport report_of(const RunPlan& run, const StepFigures& figures, const MachineRates& rates);
// The object of the contract.
std::string to_json(const PlanReport& plan);
// The same for people: a table and two lines.
std::string to_text(const PlanReport& plan);

}  // namespace hetmem
