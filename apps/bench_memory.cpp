// bench memory: what limits of memory cost, each beside the speed without one. One step under a
// sweep of device budgets, the host's large; and, where there is a folder for it, under one of them
// with ever less of the host, the rest on disk.
#include <algorithm>

#include "apps/bench.h"
#include "apps/bench_case.h"
#include "core/byte_size.h"
#include "runtime/run_disk.h"
#include "runtime/trainer.h"

namespace hetmem::apps {
namespace {

// Far beyond any machine: budgets are numbers, what is not used takes nothing.
constexpr int64_t kNoLimit = int64_t{1} << 46;
// The first two steps warm up, the third runs on the plan that was made from them, in memory not
// touched before.
constexpr int64_t kSkippedSteps = 3;

struct Budgets {
  int64_t device = kNoLimit;
  int64_t host = kNoLimit;
  bool with_disk() const { return host != kNoLimit; }
};

struct Sweep {
  int64_t state = 0;        // weights, gradients, m and v of all chunks
  int64_t activations = 0;  // what else is on the device at the fullest moment, without a limit
  std::vector<Budgets> budgets;  // of the device descending, from all that the run needs; then with
                                 // the disk, of the host
  double share_of_state(int64_t budget) const {
    return static_cast<double>(budget - activations) / static_cast<double>(state);
  }
};

int64_t activation_peak(const Plan& plan) {
  const auto of = [&](MemoryKind kind) { return plan.device.by_kind[static_cast<size_t>(kind)]; };
  return of(MemoryKind::kActivationsSaved) + of(MemoryKind::kActivationsTemporary) +
         of(MemoryKind::kWorkspace) + of(MemoryKind::kStaging);
}

// With the disk the device holds a quarter of the state, or the least that works, and the host,
// beside what passes, half of what is left, a quarter, nothing.
void add_disk_budgets(int64_t least, int64_t staging, Sweep& sweep) {
  const int64_t device = std::max(least, sweep.activations + sweep.state / 4);
  const int64_t left = sweep.state - std::min(sweep.state, device - sweep.activations);
  for (const int64_t part : {2, 4}) sweep.budgets.push_back({device, staging + left / part});
  sweep.budgets.push_back({device, 0});
}

Sweep sweep_of(const TrainConfig& config, int64_t points, bool disk) {
  const ModelConfig model = load_model_config(config.model);
  const RunPrograms programs(model, config, config.sequence_length);
  const RunPlan run =
      plan_run(programs, config, load_rates("", device_of(config)), {kNoLimit, kNoLimit});
  Sweep sweep;
  sweep.activations = activation_peak(run.training.plan);
  for (const TraceChunk& chunk : run.training.trace.access.chunks) {
    sweep.state += chunk.state_bytes() + chunk.gradient_bytes;
  }
  const int64_t all = run.training.plan.device.peak;
  const int64_t least = run.smallest_device;
  std::vector<int64_t> budgets{all, least};
  for (const int64_t part : {4, 10}) {
    const int64_t budget = sweep.activations + sweep.state / part;
    if (budget > least && budget < all) budgets.push_back(budget);
  }
  std::sort(budgets.rbegin(), budgets.rend());
  // The widest gaps are halved until there are enough.
  while (static_cast<int64_t>(budgets.size()) < points) {
    size_t widest = 0;
    for (size_t i = 0; i + 1 < budgets.size(); ++i) {
      if (budgets[i] - budgets[i + 1] > budgets[widest] - budgets[widest + 1]) widest = i;
    }
    const int64_t middle = (budgets[widest] + budgets[widest + 1]) / 2;
    budgets.insert(budgets.begin() + static_cast<int64_t>(widest) + 1, middle);
  }
  for (const int64_t budget : budgets) sweep.budgets.push_back({budget});
  if (disk) add_disk_budgets(least, disk_staging_bytes(config), sweep);
  return sweep;
}

// What all rounds saw of one budget.
struct Seen {
  std::vector<double> seconds;  // of every step
  StepReport fastest;
  PlanReport plan;  // that it ran on

  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

// A trainer of its own, so that no two are there at once.
void measure(TrainConfig config, const Budgets& budgets, int64_t steps, Seen& seen) {
  config.device_memory = budgets.device;
  config.host_memory = budgets.host;
  if (budgets.with_disk()) config.disk_memory = kAutoBytes;
  Trainer trainer(config, kSkippedSteps + steps);
  const std::vector<int32_t> tokens = random_tokens(
      trainer.sequences_per_step() * (trainer.sequence_length() + 1), trainer.model().vocabulary);
  for (int64_t i = 0; i < kSkippedSteps + steps; ++i) {
    const PlanReport plan = trainer.plan_report();
    const StepReport report = trainer.step(tokens);
    if (i < kSkippedSteps) continue;
    const bool first = seen.seconds.empty();
    seen.seconds.push_back(report.seconds);
    if (!first && report.seconds >= seen.fastest.seconds) continue;
    seen.fastest = report;
    seen.plan = plan;
  }
}

nlohmann::ordered_json tier_json(const TierUse& use, const TierPlan& plan) {
  return {{"peak", use.peak}, {"touched", use.touched}, {"predicted_peak", plan.peak}};
}

BenchResult result_of(const std::string& name, const Seen& seen, const Seen& unlimited) {
  BenchResult result;
  const auto tokens = static_cast<double>(seen.fastest.tokens);
  result.name = name;
  result.value = tokens / seen.fastest.seconds;
  result.unit = "tokens/s";
  result.reference = "without a limit";
  result.reference_value = tokens / unlimited.fastest.seconds;
  result.ratio = unlimited.fastest.seconds / seen.fastest.seconds;
  result.parameters = {{"median_tokens_per_second", tokens / seen.median()},
                       {"median_ratio", unlimited.median() / seen.median()},
                       {"seconds", seen.fastest.seconds},
                       {"median_seconds", seen.median()},
                       {"predicted_seconds", seen.plan.step_seconds},
                       {"lower_bound_seconds", seen.plan.lower_bound_seconds},
                       {"limited_by", seen.plan.limited_by},
                       {"fraction_of_bound", seen.fastest.fraction_of_bound},
                       {"exposed_copy_seconds", seen.fastest.exposed_copy_seconds},
                       {"to_device", seen.fastest.traffic.to_device},
                       {"to_host", seen.fastest.traffic.to_host},
                       {"disk_read", seen.fastest.traffic.disk_read},
                       {"disk_write", seen.fastest.traffic.disk_write},
                       {"device", tier_json(seen.fastest.device, seen.plan.device)},
                       {"host", tier_json(seen.fastest.host, seen.plan.host)},
                       {"disk", tier_json(seen.fastest.disk, seen.plan.disk)}};
  return result;
}

}  // namespace

std::vector<BenchResult> bench_memory(const BenchOptions& options) {
  const BenchCase which = bench_cases(options).back();
  const ConfigFolder folder(which.config_json);
  TrainConfig config;
  config.compute_dtype = "fp32";
  config.model = folder.path();
  config.from_scratch = true;
  config.batch_size = which.batch;
  config.sequence_length = which.sequence;
  config.threads = options.threads;
  const Sweep sweep = sweep_of(config, options.points, !options.disk.empty());
  config.disk = options.disk;
  Seen unlimited;
  std::vector<Seen> seen(sweep.budgets.size());
  for (int64_t round = 0; round < options.repeats; ++round) {
    measure(config, {}, options.steps, unlimited);
    for (size_t i = 0; i < seen.size(); ++i) {
      measure(config, sweep.budgets[i], options.steps, seen[i]);
    }
  }
  std::vector<BenchResult> results;
  for (size_t i = 0; i < seen.size(); ++i) {
    const Budgets& budget = sweep.budgets[i];
    std::string name = which.name + " in " + format_byte_size(budget.device);
    if (budget.with_disk()) name += ", host " + format_byte_size(budget.host) + ", disk";
    BenchResult result = result_of(name, seen[i], unlimited);
    result.parameters["device_budget"] = budget.device;
    if (budget.with_disk()) result.parameters["host_budget"] = budget.host;
    result.parameters["share_of_state"] = sweep.share_of_state(budget.device);
    result.parameters["activation_peak"] = sweep.activations;
    result.parameters["state_bytes"] = sweep.state;
    result.parameters["batch_size"] = which.batch;
    result.parameters["sequence_length"] = which.sequence;
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace hetmem::apps
