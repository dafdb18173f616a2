// TrainConfig: everything that `train` and `plan` can be told, and the one table of options that
// the command line and Python read (names, defaults, help, validation). Values; thread-safe to
// read.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "runtime/options.h"

namespace hetmem {

enum class ScheduleKind { kLinear, kCosine, kConstant, kConstantWithWarmup, kWsd };
enum class OptimizerKind { kAdamW, kAdamW8Bit, kSgd };
enum class OnNonFinite { kStop, kSkip };
enum class LogFormat { kAuto, kJson, kPlain };

struct TrainConfig {
  std::string model;
  bool from_scratch = false;
  std::vector<std::string> data;
  std::vector<std::string> eval_data;
  std::string data_glob = "*";
  std::string out;  // empty: runs/<time>
  bool overwrite_output_dir = false;
  bool tensorboard = false;
  bool encrypt_disk = false;
  std::string device = "auto";
  int64_t device_memory = kAutoBytes;
  int64_t host_memory = kAutoBytes;
  std::vector<std::string> disk;  // folders
  int64_t disk_memory = 0;
  int64_t batch_size = 4;
  int64_t sequence_length = 0;  // 0: min(1024, the model's positions)
  int64_t gradient_accumulation_steps = 1;
  std::optional<int64_t> steps;
  std::optional<double> epochs;
  int64_t eval_steps = 0;
  std::string freeze;
  double learning_rate = 5e-5;
  ScheduleKind lr_scheduler_type = ScheduleKind::kLinear;
  double warmup_steps = 0;  // below 1: a ratio of the steps
  double min_lr_ratio = 0;
  std::optional<double> decay_steps;  // wsd: steps, or a ratio below 1; absent: 10 %
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  double momentum = 0.9;
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;
  std::string compute_dtype = "auto";
  bool optimizer_overlap = true;
  bool shuffle = true;
  bool always_overlap = false;  // no option, for tests; true: though it may not be worth it
  bool prefetch = true;  // no option, for tests; false: a chunk is brought when its op is next
  uint64_t seed = 42;
  int64_t save_steps = 0;
  int64_t save_total_limit = 2;
  std::string resume_from_checkpoint;  // a path, "latest", or empty
  OnNonFinite on_nonfinite = OnNonFinite::kStop;
  LogFormat log_format = LogFormat::kAuto;
  std::string machine;    // a file of rates; empty: this machine's
  std::string deepspeed;  // the file whose values the other members hold
  std::string trace;
  int64_t threads = 0;  // 0: all

  // No options, as prefetch is none: micro-batches that pass a chunk before the next, for tests to
  // choose, since no result depends on it; 0: as many as fit.
  int64_t group = 0;

  // What with_absolute_paths() found, by what it made of it.
  std::map<std::string, std::string> given_paths;

  // For whoever prints: what the user is to know of how the options were read.
  std::vector<std::string> notes;
};

using Option = OptionOf<TrainConfig>;
const std::vector<Option>& train_options();

// Options of the contract that this version does not serve: given anything but the default they are
// refused with "not in this version".
struct LaterOption {
  std::string_view name;
  std::string_view fallback;
};
const std::vector<LaterOption>& later_options();
// The heading of the options that name data: `train` has them, `plan` does not.
constexpr const char* kDataGroup = "Data";
// Throws Error (kBadInput) for one of them among the options that `plan` is told.
void refuse_data_options(const OptionValues& values);

// Applies named values ("learning-rate" or "learning_rate") over the defaults, together with those
// of the DeepSpeed configuration that they may name, and checks them against each other. Throws
// Error (kBadInput) that names the flag.
TrainConfig resolve_config(const OptionValues& values);
// The same with paths that hold wherever the process goes, and back again for whoever is shown
// them.
TrainConfig with_absolute_paths(TrainConfig config);
TrainConfig with_given_paths(TrainConfig config);
// One of the paths of a configuration, as it was given.
std::string given_path(const TrainConfig& config, const std::string& path);
// The device that --device names, whether it is there or not.
DeviceId device_of(const TrainConfig& config);
// Whether matrix products round their operands to bf16: asked for, or "auto" on a processor that
// multiplies bf16 natively.
bool computes_in_bf16(const TrainConfig& config);
// The resolved configuration as YAML, keys = long flags with '_', paths as they were given.
std::string to_yaml(const TrainConfig& config);
// Of the options on which the data of a step or a result depends (and neither budgets nor tiers,
// threads or output), those that differ: a line each, for
// whoever goes on from a checkpoint that was written with `before`.
std::vector<std::string> changed_options(const TrainConfig& now, const TrainConfig& before);
// What to_yaml() of this version or another has written: what it does not say, or says in a way
// that is not known here, is the default. None where it is no such text.
std::optional<TrainConfig> config_of_yaml(const std::string& yaml);

}  // namespace hetmem
