#include "runtime/step_plan.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "core/byte_size.h"
#include "core/error.h"
#include "device/device.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "runtime/norm_history.h"
#include "runtime/program.h"
#include "runtime/run_disk.h"

namespace hetmem {
namespace {

// Makes the trace of a training step whose micro-batches pass a chunk in groups of so many.
using TraceOfGroup = std::function<StepTrace(int64_t group)>;

// What plans of a run have in common.
class RunPlanner {
 public:
  RunPlanner(TraceOfGroup training, int64_t largest_group, int64_t smallest_group,
             StepTrace evaluation, const TierBudgets& budgets, const CopyRates& copies,
             const PlanOptions& options)
      : training_trace_(std::move(training)),
        largest_group_(largest_group),
        smallest_group_(smallest_group),
        evaluation_trace_(std::move(evaluation)),
        budgets_(budgets),
        copies_(copies),
        options_(options) {}

  // `smallest`: the least device memory, where a plan for these budgets has found it already.
  RunPlan run(int64_t smallest) {
    RunPlan run;
    run.budgets = budgets_;
    PlanOptions options = options_;
    const int64_t evaluation =
        plan_evaluation(no_chunks(), with_memory(0, budgets_.host)).smallest_device;
    options.resident_limit = budgets_.device - evaluation;
    for (;;) {
      run.training = plan_training(options);
      const Plan& training = run.training.plan;
      // Evaluation keeps to the memory of training where it can.
      Plan plan = plan_evaluation(
          training.resident, with_memory(training.device.peak, budgets_.host), &training.places);
      if (!plan.fits) {
        plan = plan_evaluation(training.resident, with_memory(plan.smallest_device, budgets_.host),
                               &training.places);
      }
      run.evaluation = {evaluation_trace_, std::move(plan)};
      const int64_t kept = resident_bytes(run.training.trace.access, training.resident);
      const bool too_much = run.evaluation.plan.device.peak > budgets_.device;
      if (too_much) run.evaluation.plan.fits = false;
      // Fewer chunks stay where evaluation has no room beside them, but for those that must.
      const bool must = kept == 0 || kept > options.resident_limit;
      if (!training.fits || !too_much || must) break;
      options.resident_limit = kept - 1;
    }
    run.smallest_device =
        smallest >= 0 && run.fits() ? smallest : smallest_device(run.training, evaluation);
    count_evaluation(run);
    return run;
  }

 private:
  std::vector<bool> no_chunks() const {
    std::vector<bool> resident(evaluation_trace_.access.chunks.size(), false);
    return resident;
  }

  TierBudgets with_memory(int64_t device, int64_t host) const {
    TierBudgets budgets = budgets_;
    budgets.device = device;
    budgets.host = host;
    return budgets;
  }

  // From all micro-batches in one group downwards to the first that fits.
  PlannedStep plan_training(const PlanOptions& options) const {
    for (int64_t group = largest_group_;; group = (group + 1) / 2) {
      PlannedStep step;
      step.trace = training_trace_(group);
      step.plan = make_plan(step.trace.access, budgets_, copies_, options);
      if (step.plan.fits || group == smallest_group_) return step;
    }
  }

  Plan plan_evaluation(const std::vector<bool>& resident, const TierBudgets& budgets,
                       const std::vector<ChunkPlaces>* places = nullptr) const {
    PlanOptions options = options_;
    options.resident = &resident;
    options.places = places;
    return make_plan(evaluation_trace_.access, budgets, copies_, options);
  }

  // With only those chunks on the device that the host has no room for. Of some models a group of
  // more micro-batches needs less: what each adds to a gradient need not be brought back.
  int64_t smallest_device(const PlannedStep& step, int64_t evaluation) const {
    int64_t smallest = -1;
    for (int64_t group = largest_group_;; group = (group + 1) / 2) {
      const bool planned = step.trace.access.group == group;
      const AccessTrace access = planned ? step.trace.access : training_trace_(group).access;
      const int64_t needed = planned && needs_least(step)
                                 ? std::max(step.plan.smallest_device, evaluation)
                                 : smallest_of(access);
      if (needed >= 0 && (smallest < 0 || needed < smallest)) smallest = needed;
      if (group == smallest_group_) return smallest;
    }
  }

  // Whether the plan of a step says already what it needs when nothing stays on the device.
  bool needs_least(const PlannedStep& step) const {
    return budgets_.shared == 0 && has_room(step.trace.access, no_chunks(), budgets_);
  }

  int64_t smallest_of(const AccessTrace& access) const {
    if (budgets_.shared == 0) return smallest_beside(access, budgets_.host);
    // The larger the device is, the less is left for the host, and the more must stay.
    int64_t device = 0;
    for (;;) {
      const int64_t needed =
          smallest_beside(access, std::max<int64_t>(0, budgets_.shared - device));
      if (needed <= device) return needed < 0 ? needed : device;
      device = needed;
    }
  }

  int64_t smallest_beside(const AccessTrace& access, int64_t host) const {
    const TierBudgets budgets = with_memory(0, host);
    const Plan least = make_plan(access, budgets, copies_);
    if (least.smallest_device < 0) return -1;
    return std::max(least.smallest_device,
                    plan_evaluation(least.resident, budgets).smallest_device);
  }

  // What evaluation takes beyond the pool of training is reserved with it.
  static void count_evaluation(RunPlan& run) {
    Plan& training = run.training.plan;
    const int64_t more = std::max<int64_t>(0, run.evaluation.plan.pool_bytes - training.pool_bytes);
    training.device.by_kind[static_cast<size_t>(MemoryKind::kActivationsTemporary)] += more;
    training.device.peak += more;
  }

  TraceOfGroup training_trace_;
  int64_t largest_group_;
  int64_t smallest_group_;
  StepTrace evaluation_trace_;
  TierBudgets budgets_;
  CopyRates copies_;
  PlanOptions options_;
};

// A plan has an entry for each block of tokens and each micro-batch: more than any one machine
// steps through are a slip.
const TrainConfig& plannable(const TrainConfig& config, int64_t sequence) {
  constexpr int64_t kMostTokens = int64_t{1} << 24;
  constexpr int64_t kMostMicroBatches = int64_t{1} << 16;
  if (config.batch_size > kMostTokens / sequence) {
    throw Error(ErrorKind::kBadInput,
                "--batch-size " + std::to_string(config.batch_size) + " of " +
                    std::to_string(sequence) + " tokens is more than the " +
                    std::to_string(kMostTokens) +
                    " tokens that a micro-batch may have; lower it, and raise "
                    "--gradient-accumulation-steps where a step is to have as many");
  }
  if (config.gradient_accumulation_steps > kMostMicroBatches) {
    throw Error(ErrorKind::kBadInput, "--gradient-accumulation-steps is at most " +
                                          std::to_string(kMostMicroBatches) + ", not " +
                                          std::to_string(config.gradient_accumulation_steps) +
                                          "; raise --batch-size instead");
  }
  return config;
}

}  // namespace

RunPrograms::RunPrograms(const ModelConfig& model, const TrainConfig& config, int64_t sequence)
    : training(compile_training(model, plannable(config, sequence), sequence)),
      evaluation(compile_evaluation(model, config, sequence)),
      layout(layout_of(training, moments_of(config.optimizer).dtype)) {}

MomentLists moments_of(OptimizerKind optimizer) {
  switch (optimizer) {
    case OptimizerKind::kAdamW:
      return {2, DType::kFloat32};
    case OptimizerKind::kAdamW8Bit:
      return {2, DType::kUint8};
    case OptimizerKind::kSgd:
      break;
  }
  return {1, DType::kFloat32};
}

MeasuredTimes::Key MeasuredTimes::key_of(const OpInstance& op) {
  return {op.step, op.chunk, static_cast<int>(op.part.stage), op.part.first_row,
          op.part.first_token};
}

void MeasuredTimes::take(const StepTrace& trace, const std::vector<double>& op_seconds,
                         const std::vector<double>& update_seconds,
                         const std::vector<bool>& resident) {
  std::map<Key, std::pair<double, int>> sums;
  for (size_t i = 0; i < trace.ops.size(); ++i) {
    auto& [sum, count] = sums[key_of(trace.ops[i])];
    sum += op_seconds[i];
    ++count;
  }
  op_seconds_.clear();
  for (const auto& [key, sum] : sums) op_seconds_[key] = sum.first / sum.second;
  update_seconds_ = update_seconds;
  resident_ = resident;
}

// Where host and device are one, a chunk's step takes as long on either; else what was measured on
// one side says nothing of the other, whose mean for so many bytes counts.
void MeasuredTimes::apply_updates(AccessTrace& trace) const {
  struct Side {
    double seconds = 0;
    double bytes = 0;
  };
  std::array<Side, 2> sides;  // host, device
  for (size_t c = 0; c < update_seconds_.size(); ++c) {
    Side& side = sides.at(resident_[c] ? 1 : 0);
    side.seconds += update_seconds_[c];
    side.bytes += static_cast<double>(trace.chunks[c].gradient_bytes);
  }
  for (size_t c = 0; c < update_seconds_.size(); ++c) {
    TraceChunk& chunk = trace.chunks[c];
    const bool shared = trace.host_shares_compute;
    const auto seconds = [&](bool on_device, double& at) {
      const Side& side = sides.at(on_device ? 1 : 0);
      if (shared || resident_[c] == on_device) {
        at = update_seconds_[c];
      } else if (side.bytes > 0) {
        at = side.seconds / side.bytes * static_cast<double>(chunk.gradient_bytes);
      }
    };
    const double before = chunk.host_step_seconds;
    seconds(true, chunk.device_step_seconds);
    seconds(false, chunk.host_step_seconds);
    if (before > 0) chunk.early_step_seconds *= chunk.host_step_seconds / before;
  }
}

void MeasuredTimes::apply(StepTrace& trace) const {
  for (size_t i = 0; i < trace.ops.size(); ++i) {
    const auto found = op_seconds_.find(key_of(trace.ops[i]));
    if (found != op_seconds_.end()) trace.access.op_seconds[i] = found->second;
  }
  apply_updates(trace.access);
}

RunPlan plan_run(const RunPrograms& programs, const TrainConfig& config, const MachineRates& rates,
                 const TierBudgets& budgets, const MeasuredTimes* measured, bool early,
                 int64_t smallest) {
  const int64_t all = config.gradient_accumulation_steps;
  const auto trace = [&](const Program& program, int64_t micro_batches, int64_t group) {
    return trace_step(program, programs.layout,
                      {micro_batches, group, moments_of(config.optimizer), device_of(config).kind},
                      rates);
  };
  StepTrace evaluation = trace(programs.evaluation, 1, 1);
  const int64_t fixed = evaluation.fixed.bytes;
  evaluation.access.fixed_bytes += trace(programs.training, all, all).fixed.bytes;
  const auto training = [&](int64_t group) {
    StepTrace step = trace(programs.training, all, group);
    step.access.fixed_bytes += fixed;
    if (measured != nullptr) measured->apply(step);
    return step;
  };
  // Tests may say how many micro-batches a group has.
  const int64_t given = std::min(all, config.group);
  PlanOptions options;
  options.prefetch = config.prefetch;
  options.overlap = config.optimizer_overlap;
  options.early = early;
  options.always = config.always_overlap;
  return RunPlanner(training, given > 0 ? given : all, given > 0 ? given : 1, std::move(evaluation),
                    budgets, rates.copies, options)
      .run(smallest);
}

RunPlan plan_run(const RunPrograms& programs, const TrainConfig& config, const MachineRates& rates,
                 const TierBudgets& budgets) {
  return plan_run(programs, config, rates, budgets, nullptr,
                  NormHistory(config.max_grad_norm).worth_planning());
}

RunPlan plan_traces(const AccessTrace& training, const AccessTrace& evaluation,
                    const TierBudgets& budgets, const CopyRates& copies) {
  StepTrace step;
  step.access = training;
  StepTrace beside;
  beside.access = evaluation;
  PlanOptions options;
  options.early = false;  // nothing is known of norms
  return RunPlanner([&](int64_t) { return step; }, training.group, training.group,
                    std::move(beside), budgets, copies, options)
      .run(-1);
}

namespace {

// A GPU's own memory and, beside it, all that the host has free.
TierBudgets gpu_budgets(const TrainConfig& config, const MachineRates& machine,
                        const HeldBytes& held) {
  const auto usable = [](int64_t bytes) { return bytes / 10 * 9; };
  TierBudgets budgets{config.device_memory, config.host_memory};
  if (budgets.host == kAutoBytes) {
    budgets.host =
        machine.host_memory > 0 ? machine.host_memory : usable(available_memory() + held.host);
  }
  if (budgets.device != kAutoBytes) return budgets;
  if (machine.device_memory > 0) {
    budgets.device = machine.device_memory;
    return budgets;
  }
  try {
    ThreadPool pool(1);
    budgets.device = usable(make_device(device_of(config), pool)->free_memory() + held.device);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBadInput) throw;
    throw Error(error.kind(), std::string(error.what()) +
                                  "; or plan for one by its --device-memory or a --machine file");
  }
  return budgets;
}

// What a processor has, device first.
TierBudgets cpu_budgets(const TrainConfig& config, const MachineRates& machine,
                        const HeldBytes& held) {
  const int64_t staging = config.disk_memory == 0 ? 0 : disk_staging_bytes(config);
  const int64_t usable = (available_memory() + held.device + held.host) / 10 * 9;
  TierBudgets budgets{config.device_memory, config.host_memory};
  if (budgets.device == kAutoBytes) {
    budgets.device =
        machine.device_memory > 0 ? machine.device_memory : std::max<int64_t>(0, usable - staging);
  }
  if (budgets.host == kAutoBytes && machine.host_memory > 0) budgets.host = machine.host_memory;
  if (budgets.host == kAutoBytes) {
    budgets.host = std::max<int64_t>(0, usable - budgets.device);
    budgets.shared = usable;
  }
  return budgets;
}

}  // namespace

TierBudgets budgets_of(const TrainConfig& config, const MachineRates& machine,
                       const HeldBytes& held) {
  const bool gpu = device_of(config).kind == DeviceKind::kCuda;
  TierBudgets budgets =
      gpu ? gpu_budgets(config, machine, held) : cpu_budgets(config, machine, held);
  add_disk(config, machine, budgets);
  return budgets;
}

void refuse(const RunPlan& plan, const TierBudgets& budgets) {
  const int64_t needed = plan.smallest_device;
  // Of one memory that both share the host has what a device of that size leaves.
  const int64_t host =
      budgets.shared > 0 ? std::max<int64_t>(0, budgets.shared - needed) : budgets.host;
  throw Error(
      ErrorKind::kDoesNotFit,
      "the model needs " + format_byte_size(needed) + " (" + std::to_string(needed) +
          " bytes) of device memory beside a host budget of " + format_byte_size(host) +
          (budgets.disk > 0 ? " and a disk budget of " + format_byte_size(budgets.disk) : "") +
          ", the device budget is " + format_byte_size(budgets.device) +
          "; the smallest --device-memory that works is " + std::to_string(needed));
}

}  // namespace hetmem
