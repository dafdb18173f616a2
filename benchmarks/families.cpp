// families MACHINE.json...: what the planner predicts for Llama-like models of 1B to 175B
// parameters on described machines, beside the rules of other trainers in the same simulator, as
// the tables of docs/planning.md. Nothing is run: every number is simulated.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <vector>

#include "core/byte_size.h"
#include "core/error.h"
#include "planner/policies.h"
#include "runtime/step_plan.h"

namespace hetmem {
namespace {

struct Family {
  const char* name;
  int64_t vocabulary, width, inner, layers, heads, kv_heads;
};

constexpr Family kFamilies[] = {
    {"1B", 128256, 2048, 8192, 16, 32, 8},    {"3B", 128256, 3072, 8192, 28, 24, 8},
    {"8B", 128256, 4096, 14336, 32, 32, 8},   {"13B", 32000, 5120, 13824, 40, 40, 40},
    {"33B", 32000, 6656, 17920, 60, 52, 52},  {"70B", 128256, 8192, 28672, 80, 64, 8},
    {"175B", 50304, 12288, 32768, 96, 96, 96}};
constexpr int64_t kSequence = 1024;
constexpr int64_t kBatch = 2;
constexpr int64_t kAccumulation = 4;

ModelConfig model_of(const Family& family) {
  return parse_model_config(fmt::format(R"({{"model_type":"llama","vocab_size":{},"hidden_size":{},
                       "intermediate_size":{},"num_hidden_layers":{},"num_attention_heads":{},
                       "num_key_value_heads":{},"max_position_embeddings":8192,
                       "rms_norm_eps":1e-5,"tie_word_embeddings":false}})",
                                        family.vocabulary, family.width, family.inner,
                                        family.layers, family.heads, family.kv_heads),
                            family.name);
}

std::string seconds_of(const PolicyRun& run) {
  return run.fits ? fmt::format("{:.2f} s", run.step_seconds) : std::string("does not fit");
}

TrainConfig config_of(const MachineRates& rates, double max_grad_norm) {
  TrainConfig config;
  config.device = "cpu";  // whose kernels say what workspace there is; the rates are the machine's
  config.batch_size = kBatch;
  config.gradient_accumulation_steps = kAccumulation;
  config.compute_dtype = "bf16";
  config.max_grad_norm = max_grad_norm;
  if (rates.disk_memory > 0) config.disk_memory = kAutoBytes;
  return config;
}

std::string step_of(const Plan& plan) {
  return fmt::format("{:.2f} s | {:.0f} %", plan.step_seconds,
                     100 * plan.lower_bound_seconds / plan.step_seconds);
}

void print_row(const Family& family, const MachineRates& rates) {
  const TrainConfig clipped = config_of(rates, 1.0);
  const TrainConfig unclipped = config_of(rates, 0.0);
  const RunPrograms programs(model_of(family), clipped, kSequence);
  const TierBudgets budgets = budgets_of(clipped, rates);
  const RunPlan run = plan_run(programs, clipped, rates, budgets);
  const Plan& plan = run.training.plan;
  const auto policy = [&](Policy which) {
    return seconds_of(simulate_policy(run.training.trace.access, budgets, rates.copies, which));
  };
  double parameters = 0;
  for (const ValueId weight : programs.training.weights) {
    parameters += static_cast<double>(programs.training.value(weight).shape.elements());
  }
  fmt::print("| {} | {:.2f} | ", family.name, parameters * 1e-9);
  if (!run.fits()) {
    fmt::print("no: {} of device memory |  |  |  |  |  |  | {} | {} |\n",
               format_byte_size(run.smallest_device), policy(Policy::kBelady),
               policy(Policy::kPatrickStar));
    return;
  }
  const RunPlan free = plan_run(programs, unclipped, rates, budgets);
  const char* disk = plan.disk.peak > 0 ? "with the disk" : "yes";
  fmt::print("{} | {} | {} | {} | {} | {} | {} |\n", disk, step_of(plan), plan.limited_by,
             step_of(free.training.plan), free.training.plan.limited_by, policy(Policy::kBelady),
             policy(Policy::kPatrickStar));
}

void print_table(const std::string& machine) {
  const MachineRates rates = load_rates(machine);
  fmt::print("\n`{}`: {} of device memory, {} of host memory, {} of disk\n\n",
             machine.substr(machine.find_last_of('/') + 1), format_byte_size(rates.device_memory),
             format_byte_size(rates.host_memory), format_byte_size(rates.disk_memory));
  fmt::print(
      "| model | parameters, 10⁹ | fits | step | share of the bound | limited by | not clipped | "
      "share of the bound | limited by | Belady | PatrickStar |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const Family& family : kFamilies) {
    print_row(family, rates);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace hetmem

int main(int count, char** arguments) {
  try {
    for (int i = 1; i < count; ++i) hetmem::print_table(arguments[i]);
  } catch (const hetmem::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
