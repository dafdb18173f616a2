#include "runtime/report_writer.h"

#include <fmt/format.h>

#include <utility>

#include "core/byte_size.h"
#include "core/trace.h"
#include "device/device.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "io/file.h"
#include "ops/ops.h"
#include "planner/simulate.h"
#include "runtime/machine.h"
#include "runtime/trace_file.h"

namespace hetmem {
namespace {

std::string rate_text(double bytes_per_second) {
  return fmt::format("{:.1f} GB/s", bytes_per_second * 1e-9);
}

std::vector<std::pair<std::string, std::string>> describe_machine(const TrainConfig& config,
                                                                  const MachineRates& rates) {
  const int64_t threads = config.threads > 0 ? config.threads : available_processors();
  std::vector<std::pair<std::string, std::string>> lines{
      {"hetmem", fmt::format("{}, compiler {}", HETMEM_VERSION, __VERSION__)},
      {"processor", processor_name()},
      {"threads", fmt::format("{} of {}", threads, available_processors())},
      {"kernels", fmt::format("{}{}", ops::instruction_set(),
                              ops::has_native_bf16() ? ", bf16 in hardware" : "")},
      {"memory left now", format_byte_size(available_memory())},
      {"peak of the process", format_byte_size(peak_resident_bytes())}};
  const DeviceId device = device_of(config);
  lines.emplace_back("device", to_string(device));
  if (device.kind == DeviceKind::kCuda) {
    const std::vector<Gpu>& gpus = find_gpus().gpus;
    const auto index = static_cast<size_t>(device.index);
    if (index < gpus.size()) lines.emplace_back("GPU", gpus[index].name);
    lines.emplace_back("CUDA", cuda_version());
  }
  lines.emplace_back("matrix products", fmt::format("{:.0f} GFLOP/s", rates.gemm_flops * 1e-9));
  lines.emplace_back("memory bandwidth", rate_text(rates.memory_bandwidth));
  lines.emplace_back("link", rate_text(rates.copies.to_device) + " to the device, " +
                                 rate_text(rates.copies.to_host) + " to the host");
  if (rates.copies.disk_read > 0 && !config.disk.empty()) {
    std::string disk = rate_text(rates.copies.disk_read) + " read, " +
                       rate_text(rates.copies.disk_write) + " written";
    if (rates.copies.disk_both > 0) disk += ", " + rate_text(rates.copies.disk_both) + " at once";
    lines.emplace_back("disk", disk);
  }
  lines.emplace_back("these rates are", rates.source);
  return lines;
}

std::vector<std::string> names_of(const Trainer& trainer) {
  return op_names(trainer.plan().training.trace, trainer.program());
}

StepTimeline timeline_of(const AccessTrace& trace, const Plan& plan, const CopyRates& rates) {
  return make_timeline(trace, plan, simulate(trace, plan, rates));
}

TierUse use_of(const TierMetrics& tier) {
  TierUse use;
  use.peak = tier.peak;
  use.budget = tier.budget;
  return use;
}

}  // namespace

ReportWriter::ReportWriter(const TrainConfig& config, const Trainer& trainer, std::string out)
    : config_(config),
      out_(std::move(out)),
      assumed_seconds_(trainer.access_trace().op_seconds),
      assumed_times_(times_by_kind(names_of(trainer), assumed_seconds_)) {
  if (!out_.empty()) metrics_ = read_metrics(out_ + "/metrics.jsonl");
  if (metrics_.recent.empty()) return;
  const StepMetrics& last = metrics_.recent.back();
  device_ = use_of(last.device);
  host_ = use_of(last.host);
  disk_ = use_of(last.disk);
}

void ReportWriter::add(const StepReport& step) {
  device_ = step.device;
  host_ = step.host;
  disk_ = step.disk;
}

ReportWriter::Draft ReportWriter::draft(const Trainer& trainer, const std::string& outcome,
                                        bool failed) const {
  Draft draft;
  RunReport& report = draft.report;
  report.model = given_path(config_, config_.model);
  report.out = out_;
  report.outcome = outcome;
  report.failed = failed;
  report.planned = trainer.plan_report();
  report.metrics = metrics_;
  report.device = device_;
  report.host = host_;
  report.disk = disk_;
  report.step.plan = trainer.plan().training.plan;
  report.step.op_names = names_of(trainer);
  report.assumed_times = assumed_times_;
  draft.trace = trainer.access_trace();
  return draft;
}

void ReportWriter::write(Draft draft) const {
  RunReport& report = draft.report;
  report.config_yaml = to_yaml(config_);
  report.machine = describe_machine(config_, report.planned.rates);
  report.step.timeline = timeline_of(draft.trace, report.step.plan, report.planned.rates.copies);
  if (draft.trace.op_seconds != assumed_seconds_) {
    report.measured_times = times_by_kind(report.step.op_names, draft.trace.op_seconds);
  }
  write_text_file(out_ + "/report.html", to_html(report));
}

void ReportWriter::begin_page(const Trainer& trainer, const std::string& outcome) {
  if (!has_page()) return;
  if (page_.valid()) page_.get();
  page_ = std::async(std::launch::async, [this, draft = draft(trainer, outcome, false)]() mutable {
    write(std::move(draft));
  });
}

void ReportWriter::write_page(const Trainer& trainer, const std::string& outcome, bool failed) {
  if (!has_page()) return;
  if (page_.valid()) page_.wait();
  write(draft(trainer, outcome, failed));
}

void ReportWriter::write_trace(const Trainer& trainer) const {
  PlannedTimeline step;
  step.plan = trainer.plan().training.plan;
  step.timeline =
      timeline_of(trainer.access_trace(), step.plan, trainer.plan_report().rates.copies);
  step.op_names = names_of(trainer);
  trace::write(config_.trace, {to_trace(step)});
}

}  // namespace hetmem
