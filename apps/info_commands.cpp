// plan, doctor and --version: what will happen and what is here.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/commands.h"
#include "core/byte_size.h"
#include "core/error.h"
#include "device/device.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "graph/compile.h"
#include "offload/block_device.h"
#include "ops/ops.h"
#include "runtime/machine.h"
#include "runtime/plan_report.h"
#include "runtime/program.h"
#include "runtime/trace_comparison.h"
#include "runtime/trace_file.h"
#include "runtime/trainer.h"

namespace hetmem::apps {
namespace {

constexpr int kDoesNotFitCode = 3;

int print_plan(const PlanReport& report, bool json) {
  fmt::print("{}{}", json ? to_json(report) : to_text(report), json ? "\n" : "");
  return report.fits ? 0 : kDoesNotFitCode;
}

MachineRates measured_rates(const DeviceId& id, const std::optional<std::string>& disk) {
  TrainConfig config;
  if (disk) find_option(train_options(), "disk")->set(config, {*disk});
  ThreadPool pool;
  return measure_rates(*make_device(id, pool), pool, config.disk);
}

}  // namespace

int plan(const TrainConfig& config, const PlanOutput& output) {
  if (output.dump_program) {
    const ModelConfig model = load_model_config(config.model);
    const Program program =
        compile_training(model, config, resolved_sequence_length(config, model));
    std::ostringstream text;
    dump(program, text);
    fmt::print("{}", text.str());
    return 0;
  }
  return print_plan(make_plan(config), output.json);
}

int plan_from_trace(const OptionValues& values, const PlanOutput& output) {
  for (const auto& [given, texts] : values) {
    const std::string name = canonical_option(given);
    if (name == "device-memory" || name == "host-memory") continue;
    throw Error(ErrorKind::kBadInput, "--" + name +
                                          " says nothing beside --from-trace: the trace holds the "
                                          "step; only --device-memory and --host-memory do");
  }
  const TraceRecord record = read_trace(output.from_trace);
  if (!output.compare_trace.empty()) {
    const TraceComparison comparison = compare(record, read_trace(output.compare_trace));
    fmt::print("{}{}", output.json ? to_json(comparison) : to_text(comparison),
               output.json ? "\n" : "");
    return 0;
  }
  const TrainConfig config = resolve_options(train_options(), values);
  TierBudgets budgets = record.budgets;
  if (config.device_memory != kAutoBytes) budgets.device = config.device_memory;
  if (config.host_memory != kAutoBytes) {
    budgets.host = std::max(config.host_memory, budgets.disk > 0 ? budgets.staging : 0);
  }
  return print_plan(report_of(plan_trace(record, budgets), record.figures, record.rates),
                    output.json);
}

int doctor(bool json, bool measure, const std::optional<std::string>& measured_disk) {
  const DeviceId device = parse_device("auto");  // what train would use
  const MachineRates rates =
      measure ? measured_rates(device, measured_disk) : load_rates("", device);
  const GpuList& found = find_gpus();
  const BlockBackendChoice disk = choose_block_backend();
  if (json) {
    nlohmann::ordered_json gpus = nlohmann::ordered_json::array();
    for (const Gpu& gpu : found.gpus) {
      gpus.push_back({{"name", gpu.name}, {"memory", gpu.memory}, {"unusable", gpu.unusable}});
    }
    nlohmann::ordered_json object{{"version", HETMEM_VERSION},
                                  {"processor", processor_name()},
                                  {"threads", available_processors()},
                                  {"instruction_set", ops::instruction_set()},
                                  {"native_bf16", ops::has_native_bf16()},
                                  {"cuda", found.first_usable() >= 0},
                                  {"cuda_version", cuda_version()},
                                  {"gpus", gpus},
                                  {"no_gpu_because", found.reason},
                                  {"device", to_string(device)},
                                  {"available_memory", available_memory()},
                                  {"disk_backend", name_of(disk.backend)},
                                  {"no_io_uring_because", disk.reason},
                                  {"rates",
                                   {{"gemm_flops", rates.gemm_flops},
                                    {"bf16_flops", rates.bf16_flops},
                                    {"memory_bandwidth", rates.memory_bandwidth},
                                    {"to_device", rates.copies.to_device},
                                    {"to_host", rates.copies.to_host},
                                    {"from", rates.source}}}};
    if (rates.disk_source != "assumed") {
      nlohmann::ordered_json& shown = object["rates"];
      shown["disk_read"] = rates.copies.disk_read;
      shown["disk_write"] = rates.copies.disk_write;
      shown["disk_both"] = rates.copies.disk_both;
      shown["disk_from"] = rates.disk_source;
    }
    fmt::print("{}\n",
               object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return 0;
  }
  fmt::print("processor      {} ({} threads)\n", processor_name(), available_processors());
  fmt::print("kernels        {}{}\n", ops::instruction_set(),
             ops::has_native_bf16() ? ", bf16 in hardware" : "");
  fmt::print("memory         {} available\n", format_byte_size(available_memory()));
  fmt::print("disk           {}{}\n", name_of(disk.backend),
             disk.reason.empty() ? "" : " (" + disk.reason + ")");
  if (found.gpus.empty()) fmt::print("GPU            none: {}\n", found.reason);
  for (size_t i = 0; i < found.gpus.size(); ++i) {
    const Gpu& gpu = found.gpus[i];
    fmt::print("GPU            cuda:{} {}, {}{}\n", i, gpu.name, format_byte_size(gpu.memory),
               gpu.unusable.empty() ? "" : "; not used: " + gpu.unusable);
  }
  fmt::print("device         {}\n", to_string(device));
  fmt::print("rates          {:.0f} GFLOP/s, memory {:.1f} GB/s ({})\n", rates.gemm_flops * 1e-9,
             rates.memory_bandwidth * 1e-9, rates.source);
  fmt::print("link           {:.1f} GB/s to the device, {:.1f} GB/s to the host ({})\n",
             rates.copies.to_device * 1e-9, rates.copies.to_host * 1e-9, rates.source);
  if (rates.disk_source != "assumed") {
    fmt::print("disk rates     {:.1f} GB/s read, {:.1f} GB/s written, {:.1f} GB/s at once ({})\n",
               rates.copies.disk_read * 1e-9, rates.copies.disk_write * 1e-9,
               rates.copies.disk_both * 1e-9, rates.disk_source);
  }
  return 0;
}

std::string version_text() {
  return fmt::format("hetmem {}\ncompiler {}\nCUDA {}\ninstruction sets avx2 avx512",
                     HETMEM_VERSION, __VERSION__, cuda_version());
}

}  // namespace hetmem::apps
