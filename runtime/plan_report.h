// What `hetmem plan` answers: whether a run fits, the predicted peak of each tier by kind, and how
// long a step takes. Pure but for the free memory that `auto` budgets ask for; reads config.json
// alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "device/tier.h"
#include "graph/compile.h"
#include "runtime/train_config.h"

namespace hetmem {

// Rates that predictions reckon with.
struct MachineRates {
  double gemm_flops = 0;           // per second, all threads, fp32
  double bf16_flops = 0;           // the same of products in bf16; 0 where there are none
  double memory_bandwidth = 0;     // bytes a second
  std::string source = "assumed";  // "measured", "file" or "assumed"
};

struct TierPlan {
  int64_t budget = 0;
  int64_t peak = 0;
  BytesByKind by_kind{};
};

struct PlanReport {
  bool fits = false;
  int64_t parameters = 0;
  TierPlan device;
  TierPlan host;
  TierPlan disk;
  double step_seconds = 0;  // meaningless where it does not fit
  double lower_bound_seconds = 0;
  std::string limited_by;  // "compute" or "memory bandwidth"
  int64_t smallest_device_memory = 0;
  MachineRates rates;
  int64_t tokens_per_step = 0;
};

PlanReport make_plan(const TrainConfig& config);
// The object of the contract.
std::string to_json(const PlanReport& plan);
// The same for people: a table and two lines.
std::string to_text(const PlanReport& plan);

// Rates of this machine: as measured before, else assumed from its processor.
MachineRates load_rates();
// Measures and keeps them under $XDG_CACHE_HOME/hetmem.
MachineRates measure_rates(int threads);

}  // namespace hetmem
