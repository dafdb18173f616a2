// Tiny models of every family for the tests of the runtime: folders that hold a config.json alone
// (weights are drawn from the seed), and the training of one, as values to compare.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/trainer.h"
#include "tests/temporary_folder.h"

namespace hetmem {

// A folder with a config.json.
class ModelFolder {
 public:
  explicit ModelFolder(const std::string& config_json);
  std::string path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

// config.json by name: each family, tied and untied.
const std::vector<std::pair<std::string, std::string>>& tiny_models();
std::string tiny_model(const std::string& name);

// Training from scratch with rates that are given, so that plans do not depend on the machine.
TrainConfig tiny_config(const ModelFolder& folder);
constexpr int64_t kAmple = int64_t{1} << 30;

// What `plan` says without anything being read or reserved.
RunPlan plan_of(const TrainConfig& config);
// Device budgets from the smallest that works to more than is of use.
std::vector<int64_t> device_budgets(TrainConfig config, int count);

// The tokens of a step.
std::vector<int32_t> tokens_of(const Trainer& trainer, int64_t step);

// Everything that memory must not change.
struct Outcome {
  std::vector<double> losses;
  std::vector<double> norms;
  std::vector<float> state;                     // all lists of all tensors
  bool operator==(const Outcome& other) const;  // bit for bit
};
// Steps until `total` are done.
void take_steps(Trainer& trainer, int64_t total, Outcome& outcome);
std::vector<float> state_of(Trainer& trainer);
Outcome train(const TrainConfig& config, int64_t steps);

}  // namespace hetmem
