#include "runtime/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/byte_size.h"
#include "io/model_config.h"
#include "runtime/run_disk.h"
#include "runtime/trainer.h"

namespace hetmem {
namespace {

using Json = nlohmann::ordered_json;

Json tier_json(const TierPlan& tier) {
  Json kinds = Json::object();
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    kinds[std::string(name_of(static_cast<MemoryKind>(kind)))] =
        tier.by_kind[static_cast<size_t>(kind)];
  }
  return {{"budget", tier.budget}, {"peak", tier.peak}, {"by_kind", kinds}};
}

// Behind "Rates are measured".
std::string source_of_disk_rates(const MachineRates& rates) {
  if (rates.source == "assumed" || rates.source == rates.disk_source) return "";
  return ", those of the disk " + rates.disk_source;
}

}  // namespace

PlanReport report_of(const RunPlan& run, const StepFigures& figures, const MachineRates& rates) {
  const Plan& step = run.training.plan;
  PlanReport report;
  static_cast<StepFigures&>(report) = figures;
  report.fits = run.fits();
  report.device = step.device;
  report.host = step.host;
  report.disk = step.disk;
  report.step_seconds = step.step_seconds;
  report.lower_bound_seconds = step.lower_bound_seconds;
  report.limited_by = step.limited_by;
  report.smallest_device_memory = run.smallest_device;
  report.traffic = step.traffic;
  report.rates = rates;
  report.resident_chunks =
      static_cast<size_t>(std::count(step.resident.begin(), step.resident.end(), true));
  report.group = step.group;
  return report;
}

PlanReport report_of(const RunPlan& run, const RunPrograms& programs, const TrainConfig& config,
                     int64_t sequence, const MachineRates& rates) {
  StepFigures figures;
  for (const ValueId weight : programs.training.weights) {
    figures.parameters += programs.training.value(weight).shape.elements();
  }
  figures.tokens_per_step = config.batch_size * config.gradient_accumulation_steps * sequence;
  figures.micro_batches = config.gradient_accumulation_steps;
  figures.chunks = programs.layout.chunks.size();
  figures.chunk_bytes = programs.layout.capacity * static_cast<int64_t>(sizeof(float));
  figures.chunk_waste = programs.layout.waste;
  figures.disk_file_bytes =
      disk_file_bytes(run.budgets, programs.layout, moments_of(config.optimizer));
  return report_of(run, figures, rates);
}

PlanReport make_plan(const TrainConfig& config) {
  if (!host_holds_staging(config)) {  // what it would take, of which there is less
    TrainConfig least = config;
    least.host_memory = 0;
    PlanReport report = make_plan(least);
    report.fits = false;
    report.host.budget = config.host_memory;
    report.smallest_device_memory = -1;
    return report;
  }
  const ModelConfig model = load_model_config(config.model);
  const int64_t sequence = resolved_sequence_length(config, model);
  const RunPrograms programs(model, config, sequence);
  const MachineRates rates = load_rates(config.machine, device_of(config));
  return report_of(plan_run(programs, config, rates, budgets_of(config, rates)), programs, config,
                   sequence, rates);
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
  json["smallest_device_memory"] =
      plan.smallest_device_memory < 0 ? Json(nullptr) : Json(plan.smallest_device_memory);
  json["traffic"] = {{"to_device", plan.traffic.to_device},
                     {"to_host", plan.traffic.to_host},
                     {"disk_read", plan.traffic.disk_read},
                     {"disk_write", plan.traffic.disk_write}};
  json["rates_from"] = plan.rates.source;
  json["chunks"] = {{"count", plan.chunks},
                    {"on_device", plan.resident_chunks},
                    {"capacity", plan.chunk_bytes},
                    {"waste", plan.chunk_waste},
                    {"micro_batches_a_visit", plan.group}};
  return json.dump();
}

std::string to_text(const PlanReport& plan) {
  std::string text = fmt::format("{:.1f} M parameters, {} tokens a step\n\n",
                                 static_cast<double>(plan.parameters) * 1e-6, plan.tokens_per_step);
  const bool with_disk = plan.disk.budget > 0;
  const auto row = [&](const std::string& name, int64_t device, int64_t host, int64_t disk) {
    text +=
        fmt::format("  {:<24}{:>14}{:>14}", name, format_byte_size(device), format_byte_size(host));
    text += with_disk ? fmt::format("{:>14}\n", format_byte_size(disk)) : "\n";
  };
  text += fmt::format("  {:<24}{:>14}{:>14}{}\n", "memory", "device", "host",
                      with_disk ? fmt::format("{:>14}", "disk") : "");
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    const auto index = static_cast<size_t>(kind);
    const std::array bytes{plan.device.by_kind[index], plan.host.by_kind[index],
                           plan.disk.by_kind[index]};
    if (bytes == decltype(bytes){}) continue;
    row(readable_name(static_cast<MemoryKind>(kind)), bytes[0], bytes[1], bytes[2]);
  }
  row("peak", plan.device.peak, plan.host.peak, plan.disk.peak);
  row("budget", plan.device.budget, plan.host.budget, plan.disk.budget);
  text += fmt::format(
      "\n{} chunks of up to {}, {:.1f} % unused; {} stay on the device. A step moves {} to the "
      "device and {} to the host",
      plan.chunks, format_byte_size(plan.chunk_bytes), 100 * plan.chunk_waste, plan.resident_chunks,
      format_byte_size(plan.traffic.to_device), format_byte_size(plan.traffic.to_host));
  text += plan.micro_batches == 1
              ? std::string(".\n")
              : fmt::format("; {} of its {} micro-batches pass a chunk at a visit.\n", plan.group,
                            plan.micro_batches);
  if (with_disk) {
    text += fmt::format("It reads {} of the disk and writes {} to it, which wears it.\n",
                        format_byte_size(plan.traffic.disk_read),
                        format_byte_size(plan.traffic.disk_write));
    if (plan.disk_file_bytes > 0) {
      text += fmt::format("Its files take {} of the disk from the start, for plans to come.\n",
                          format_byte_size(plan.disk_file_bytes));
    }
  }
  if (plan.fits) {
    const double speed = static_cast<double>(plan.tokens_per_step) / plan.step_seconds;
    text += fmt::format(
        "fits. A step takes about {:.2f} s ({:.{}f} tokens/s), limited by {}; the lower bound is "
        "{:.2f} s. Rates are {}{}.\n",
        plan.step_seconds, speed, speed < 10 ? 2 : 0, plan.limited_by, plan.lower_bound_seconds,
        plan.rates.source, with_disk ? source_of_disk_rates(plan.rates) : "");
  } else {
    text += "does not fit.\n";
  }
  if (plan.smallest_device_memory < 0) {
    return text + "No device memory is enough beside this host memory.\n";
  }
  return text + fmt::format("The smallest device memory that works is {} bytes ({}).\n",
                            plan.smallest_device_memory,
                            format_byte_size(plan.smallest_device_memory));
}

}  // namespace hetmem
