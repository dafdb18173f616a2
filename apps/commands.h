// The sub-commands of the binary: each takes its options and returns the exit code. Errors are
// thrown; main() prints them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "runtime/generate_config.h"
#include "runtime/options.h"
#include "runtime/train_config.h"

namespace hetmem::apps {

// A line on stderr that is no error.
void print_note(const std::string& note);
// Throws Error (kStorage) where something that was printed is lost.
void flush_output();

int train(const TrainConfig& config);
struct PlanOutput {
  bool json = false;
  bool dump_program = false;
  std::string from_trace;     // a file that `train` wrote
  std::string compare_trace;  // another one
};
int plan(const TrainConfig& config, const PlanOutput& output);
// From a trace instead of a model; `values` may hold budgets, which are else those of the run.
int plan_from_trace(const OptionValues& values, const PlanOutput& output);

int generate(const GenerateConfig& config);

struct ExportConfig {
  std::string checkpoint;
  std::string out;
  std::optional<DType> dtype;  // the model's own where absent
};
const std::vector<OptionOf<ExportConfig>>& export_options();
int export_folder(const ExportConfig& config);

struct TokenizeOptions {
  std::string model;
  std::vector<std::string> files;
  std::string data_glob = "*";
  std::string out;
};
int tokenize(const TokenizeOptions& options);
// `measured_disk`: --disk, whose rates `measure` measures and keeps, too.
int doctor(bool json, bool measure, const std::optional<std::string>& measured_disk);
std::string version_text();

}  // namespace hetmem::apps
