#include "runtime/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/byte_size.h"
#include "io/model_config.h"
#include "runtime/budgets.h"
#include "runtime/memory_plan.h"
#include "runtime/program.h"
#include "runtime/trainer.h"

namespace hetmem {
namespace {

using Json = nlohmann::ordered_json;

// Bytes that an optimizer step reads and writes for each trained parameter, fp32: w, m and v both
// ways, g once; and g once more for the norm.
constexpr double kAdamWBytes = 32;
constexpr double kSgdBytes = 24;

struct StepTimes {
  double compute = 0;
  double memory = 0;
};

// Floating-point operations a second that a step's products reach.
double flops_rate(const Step& step, const MachineRates& rates) {
  bool bf16 = false;
  if (const auto* linear = std::get_if<LinearParams>(&step.node.params)) bf16 = linear->bf16;
  if (const auto* head = std::get_if<HeadParams>(&step.node.params)) bf16 = head->bf16;
  return bf16 ? rates.bf16_flops : rates.gemm_flops;
}

StepTimes predict(const Program& program, const TrainConfig& config, const MachineRates& rates) {
  StepTimes times;
  double optimizer_bytes = 0;
  for (size_t i = 0; i < program.weights.size(); ++i) {
    if (program.gradients[i] == kNoValue) continue;
    optimizer_bytes += static_cast<double>(program.value(program.weights[i]).shape.elements()) *
                       (config.optimizer == OptimizerKind::kAdamW ? kAdamWBytes : kSgdBytes);
  }
  for (const Step& step : program.steps) {
    const double compute = step.cost.flops / flops_rate(step, rates);
    const double memory = step.cost.bytes / rates.memory_bandwidth;
    (compute >= memory ? times.compute : times.memory) += std::max(compute, memory);
  }
  const auto micro_batches = static_cast<double>(config.gradient_accumulation_steps);
  times.compute *= micro_batches;
  times.memory = times.memory * micro_batches + optimizer_bytes / rates.memory_bandwidth;
  return times;
}

double lower_bound(const Program& program, const TrainConfig& config, const MachineRates& rates) {
  double seconds = 0;
  for (const Step& step : program.steps) seconds += step.cost.flops / flops_rate(step, rates);
  return seconds * static_cast<double>(config.gradient_accumulation_steps);
}

Json tier_json(const TierPlan& tier) {
  Json kinds = Json::object();
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    kinds[std::string(name_of(static_cast<MemoryKind>(kind)))] =
        tier.by_kind[static_cast<size_t>(kind)];
  }
  return {{"budget", tier.budget}, {"peak", tier.peak}, {"by_kind", kinds}};
}

}  // namespace

PlanReport make_plan(const TrainConfig& config) {
  const ModelConfig model = load_model_config(config.model);
  const int64_t sequence = resolved_sequence_length(config, model);
  const Program program = compile_training(model, config, sequence);
  const Program evaluation = compile_evaluation(model, config, sequence);
  const MemoryPlan training_memory = plan_training_memory(program, config);
  const MemoryPlan evaluation_memory = plan_memory(evaluation, 0);
  const BytesByKind training_bytes = training_memory.bytes();
  PlanReport plan;
  plan.rates = load_rates();
  const Budgets budgets = budgets_of(config);
  plan.device = {budgets.device, total(training_bytes), training_bytes};
  plan.host.budget = budgets.host;
  plan.smallest_device_memory = smallest_device_memory(training_memory, evaluation_memory);
  plan.fits = plan.smallest_device_memory <= budgets.device;
  for (const ValueId weight : program.weights) {
    plan.parameters += program.value(weight).shape.elements();
  }
  const StepTimes times = predict(program, config, plan.rates);
  plan.step_seconds = times.compute + times.memory;
  plan.lower_bound_seconds = lower_bound(program, config, plan.rates);
  plan.limited_by = times.compute >= times.memory ? "compute" : "memory bandwidth";
  plan.tokens_per_step = config.batch_size * config.gradient_accumulation_steps * sequence;
  return plan;
}

std::string to_json(const PlanReport& plan) {
  Json json;
  json["fits"] = plan.fits;
  json["parameters"] = plan.parameters;
  json["tiers"] = {{"device", tier_json(plan.device)},
                   {"host", tier_json(plan.host)},
                   {"disk", tier_json(plan.disk)}};
  json["step_seconds"] = plan.fits ? Json(plan.step_seconds) : Json(nullptr);
  json["lower_bound_seconds"] = plan.lower_bound_seconds;
  json["limited_by"] = plan.limited_by;
  json["smallest_device_memory"] = plan.smallest_device_memory;
  json["traffic"] = {{"to_device", 0}, {"to_host", 0}, {"disk_read", 0}, {"disk_write", 0}};
  json["rates_from"] = plan.rates.source;
  return json.dump();
}

std::string to_text(const PlanReport& plan) {
  std::string text = fmt::format("{:.1f} M parameters, {} tokens a step\n\n",
                                 static_cast<double>(plan.parameters) * 1e-6, plan.tokens_per_step);
  text += fmt::format("{:<24}{:>14}\n", "device memory", "bytes");
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    const int64_t bytes = plan.device.by_kind[static_cast<size_t>(kind)];
    if (bytes == 0) continue;
    std::string name(name_of(static_cast<MemoryKind>(kind)));
    std::replace(name.begin(), name.end(), '_', ' ');
    text += fmt::format("  {:<22}{:>14}\n", name, format_byte_size(bytes));
  }
  text +=
      fmt::format("  {:<22}{:>14}\n  {:<22}{:>14}\n\n", "peak", format_byte_size(plan.device.peak),
                  "budget", format_byte_size(plan.device.budget));
  if (plan.fits) {
    text += fmt::format(
        "fits. A step takes about {:.2f} s ({:.0f} tokens/s), limited by {}; the lower bound is "
        "{:.2f} s. Rates are {}.\n",
        plan.step_seconds, static_cast<double>(plan.tokens_per_step) / plan.step_seconds,
        plan.limited_by, plan.lower_bound_seconds, plan.rates.source);
  } else {
    text += "does not fit.\n";
  }
  text += fmt::format("The smallest device memory that works is {} bytes ({}).\n",
                      plan.smallest_device_memory, format_byte_size(plan.smallest_device_memory));
  return text;
}

}  // namespace hetmem
