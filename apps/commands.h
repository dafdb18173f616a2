// The sub-commands of the binary: each takes its options and returns the exit code. Errors are
// thrown; main() prints them.
#pragma once

#include <string>

#include "runtime/train_config.h"

namespace hetmem::apps {

int train(const TrainConfig& config);
struct PlanOutput {
  bool json = false;
  bool dump_program = false;
};
int plan(const TrainConfig& config, const PlanOutput& output);
int doctor(bool json, bool measure);
std::string version_text();
std::string processor_name();

}  // namespace hetmem::apps
