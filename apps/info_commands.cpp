// plan, doctor and --version: what will happen and what is here.
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/commands.h"
#include "core/byte_size.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "graph/compile.h"
#include "ops/ops.h"
#include "runtime/plan_report.h"
#include "runtime/program.h"
#include "runtime/trainer.h"

namespace hetmem::apps {
namespace {

constexpr int kDoesNotFitCode = 3;

}  // namespace

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

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
  const PlanReport report = make_plan(config);
  fmt::print("{}{}", output.json ? to_json(report) : to_text(report), output.json ? "\n" : "");
  return report.fits ? 0 : kDoesNotFitCode;
}

int doctor(bool json, bool measure) {
  const MachineRates rates = measure ? measure_rates(0) : load_rates();
  if (json) {
    const nlohmann::ordered_json object{{"version", HETMEM_VERSION},
                                        {"processor", processor_name()},
                                        {"threads", available_processors()},
                                        {"instruction_set", ops::instruction_set()},
                                        {"native_bf16", ops::has_native_bf16()},
                                        {"cuda", false},
                                        {"available_memory", available_memory()},
                                        {"rates",
                                         {{"gemm_flops", rates.gemm_flops},
                                          {"bf16_flops", rates.bf16_flops},
                                          {"memory_bandwidth", rates.memory_bandwidth},
                                          {"from", rates.source}}}};
    fmt::print("{}\n", object.dump());
    return 0;
  }
  fmt::print("processor      {} ({} threads)\n", processor_name(), available_processors());
  fmt::print("kernels        {}{}\n", ops::instruction_set(),
             ops::has_native_bf16() ? ", bf16 in hardware" : "");
  fmt::print("memory         {} available\n", format_byte_size(available_memory()));
  fmt::print("GPU            not used in this version\n");
  fmt::print("rates          {:.0f} GFLOP/s, {:.1f} GB/s ({})\n", rates.gemm_flops * 1e-9,
             rates.memory_bandwidth * 1e-9, rates.source);
  return 0;
}

std::string version_text() {
  return fmt::format("hetmem {}\ncompiler {}\nCUDA none\ninstruction sets avx2 avx512",
                     HETMEM_VERSION, __VERSION__);
}

}  // namespace hetmem::apps
