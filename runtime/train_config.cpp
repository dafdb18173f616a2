#include "runtime/train_config.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "ops/ops.h"
#include "runtime/deepspeed_config.h"

namespace hetmem {
namespace {

using namespace options;

Option optional_steps() {
  Option option =
      row<TrainConfig>({"steps", "Steps", "N", "", "optimizer steps (instead of --epochs)", true});
  option.set = [](TrainConfig& config, const Values& values) {
    config.steps = parse_number<int64_t>("steps", single("steps", values), 1, int64_t{1} << 40,
                                         "a whole number of at least 1");
  };
  option.get = [](const TrainConfig& config) {
    return config.steps ? Values{number_text(*config.steps)} : Values{};
  };
  return option;
}

Option optional_real(const Head& head, std::optional<double> TrainConfig::*member) {
  Option option = row<TrainConfig>(head);
  option.set = [name = option.name, member](TrainConfig& config, const Values& values) {
    config.*member =
        parse_number<double>(name, single(name, values), std::numeric_limits<double>::min(), 1e12,
                             "a number above 0, at most 1e12");
  };
  option.get = [member](const TrainConfig& config) {
    return config.*member ? Values{number_text(*(config.*member))} : Values{};
  };
  return option;
}

// "on" is a truth value to readers of YAML 1.1, and to Python on and off are True and False.
Option overlap_switch(const Head& head) {
  Option option = choice<TrainConfig, bool>(head, &TrainConfig::optimizer_overlap,
                                            {{true, "on"}, {false, "off"}});
  option.set = [set = option.set](TrainConfig& config, const Values& values) {
    Values words = values;
    for (std::string& word : words) {
      if (word == "true") word = "on";
      if (word == "false") word = "off";
    }
    set(config, words);
  };
  return option;
}

// What the file says is in the other members, so that a resolved configuration does without it.
Option deepspeed_file() {
  Option option = text<TrainConfig>(
      {"deepspeed", "Optimizer", "FILE.json", "none",
       "a DeepSpeed configuration as options; one that a flag or --config contradicts is refused, "
       "keys without a meaning here are listed"},
      &TrainConfig::deepspeed);
  option.get = [](const TrainConfig&) { return Values{}; };
  return option;
}

// By name, or by device and inode: a name may have dots and slashes to spare, or be that of a link.
bool is_same_folder(const std::string& a, const std::string& b) {
  std::error_code code;
  return a == b || std::filesystem::equivalent(a, b, code);
}

// Folders with commas between them; several values are several folders, too.
Option disk_folders(const Head& head) {
  Option option = row<TrainConfig>(head);
  option.joins = true;
  option.set = [name = option.name](TrainConfig& config, const Values& values) {
    config.disk.clear();
    for (const std::string& value : values) {
      std::istringstream folders(value);
      std::string folder;
      while (std::getline(folders, folder, ',')) {
        if (folder.empty()) refuse(name, value, "folders with commas between them");
        for (const std::string& other : config.disk) {
          if (!is_same_folder(other, folder)) continue;
          refuse(name, value,
                 "folders, each once; " + other + " and " + folder + " are the same one");
        }
        config.disk.push_back(folder);
      }
    }
    constexpr size_t kMost = 16;
    if (config.disk.empty() || config.disk.size() > kMost) {
      throw Error(ErrorKind::kBadInput, "--" + name + " takes 1 to " + std::to_string(kMost) +
                                            " folders, got " + std::to_string(config.disk.size()));
    }
  };
  option.get = [](const TrainConfig& config) {
    return config.disk.empty() ? Values{} : Values{fmt::format("{}", fmt::join(config.disk, ","))};
  };
  return option;
}

void append_model_and_data(std::vector<Option>& table) {
  using C = TrainConfig;
  const char* model = "Model";
  const char* data = "Steps";
  table.push_back(text({"model", model, "DIR", "", "Hugging Face folder (required)"}, &C::model));
  table.push_back(boolean(
      {"from-scratch", model, "", "off", "initialise as Hugging Face does; needs config.json only"},
      &C::from_scratch));
  table.push_back(
      text({"freeze", model, "REGEX", "none", "parameters whose names match are not trained"},
           &C::freeze));
  table.push_back(paths(
      {"data", kDataGroup, "PATH", "", "token files .bin, text, .jsonl, folders", true}, &C::data));
  table.push_back(paths({"eval-data", kDataGroup, "PATH", "none", "the same, for evaluation", true},
                        &C::eval_data));
  table.push_back(
      text({"data-glob", kDataGroup, "GLOB", "*", "which files of a folder are data", true},
           &C::data_glob));
  table.push_back(
      integer({"batch-size", data, "N", "4", "sequences of a micro-batch"}, &C::batch_size, 1));
  table.push_back(
      integer({"sequence-length", data, "N", "min(1024, model)", "tokens of a sequence"},
              &C::sequence_length, 1));
  table.push_back(
      integer({"gradient-accumulation-steps", data, "N", "1", "micro-batches of an optimizer step"},
              &C::gradient_accumulation_steps, 1));
  table.push_back(optional_steps());
  table.push_back(
      optional_real({"epochs", data, "X", "1", "passes over the data", true}, &C::epochs));
  table.push_back(
      integer({"eval-steps", data, "N", "0", "evaluate every N steps; 0: at the end", true},
              &C::eval_steps, 0));
  table.push_back(
      boolean({"shuffle", data, "true|false", "true", "shuffle the windows", true}, &C::shuffle));
  table.push_back(integer({"seed", data, "N", "42", "seed of every random draw"}, &C::seed, 0));
}

void append_optimizer(std::vector<Option>& table) {
  using C = TrainConfig;
  const char* group = "Optimizer";
  table.push_back(real({"learning-rate", group, "X", "5e-5", "peak learning rate"},
                       &C::learning_rate, kAnyPositive));
  table.push_back(choice<TrainConfig, ScheduleKind>(
      {"lr-scheduler-type", group, "NAME", "linear",
       "linear, cosine, constant, constant_with_warmup or wsd"},
      &C::lr_scheduler_type,
      {{ScheduleKind::kLinear, "linear"},
       {ScheduleKind::kCosine, "cosine"},
       {ScheduleKind::kConstant, "constant"},
       {ScheduleKind::kConstantWithWarmup, "constant_with_warmup"},
       {ScheduleKind::kWsd, "wsd"}}));
  table.push_back(real({"warmup-steps", group, "X", "0", "steps; below 1: a ratio of all steps"},
                       &C::warmup_steps, kAnyPositive));
  table.push_back(
      real({"min-lr-ratio", group, "X", "0", "floor of cosine and wsd"}, &C::min_lr_ratio, kRatio));
  table.push_back(
      optional_real({"decay-steps", group, "X", "10 %", "steps of decay of wsd; below 1: a ratio"},
                    &C::decay_steps));
  table.push_back(choice<TrainConfig, OptimizerKind>(
      {"optimizer", group, "NAME", "adamw",
       "adamw, adamw_8bit (moments in blocks of 256 codes with a scale) or sgd"},
      &C::optimizer,
      {{OptimizerKind::kAdamW, "adamw"},
       {OptimizerKind::kAdamW8Bit, "adamw_8bit"},
       {OptimizerKind::kSgd, "sgd"}}));
  table.push_back(real({"momentum", group, "X", "0.9", "of sgd"}, &C::momentum, kAnyPositive));
  table.push_back(real({"weight-decay", group, "X", "0", "not on biases and norm weights"},
                       &C::weight_decay, kAnyPositive));
  table.push_back(real({"adam-beta1", group, "X", "0.9", ""}, &C::adam_beta1, kBelowOne));
  table.push_back(real({"adam-beta2", group, "X", "0.999", ""}, &C::adam_beta2, kBelowOne));
  table.push_back(real({"adam-epsilon", group, "X", "1e-8", ""}, &C::adam_epsilon, kAnyPositive));
  table.push_back(real({"max-grad-norm", group, "X", "1.0", "clip the global norm; 0: off"},
                       &C::max_grad_norm, kAnyPositive));
  table.push_back(overlap_switch(
      {"optimizer-overlap", group, "on|off", "on",
       "the host steps chunks during the backward and the next forward pass; off: after the step, "
       "same bits, for comparison"}));
  table.push_back(choice<TrainConfig, OnNonFinite>(
      {"on-nonfinite", group, "stop|skip", "stop", "when loss or gradient is not finite", true},
      &C::on_nonfinite, {{OnNonFinite::kStop, "stop"}, {OnNonFinite::kSkip, "skip"}}));
  table.push_back(deepspeed_file());
}

void append_machine_and_output(std::vector<Option>& table) {
  using C = TrainConfig;
  const char* memory = "Memory and machine";
  const char* output = "Output";
  table.push_back(text({"device", memory, "auto|cpu|cuda[:N]", "auto",
                        "where to train; auto: the first GPU that can be used, else the processor"},
                       &C::device));
  table.push_back(bytes({"device-memory", memory, "SIZE", "auto",
                         "hard budget of device memory (1.5GiB, 2GB, bytes): activations and the "
                         "chunks that are in use"},
                        &C::device_memory));
  table.push_back(
      bytes({"host-memory", memory, "SIZE", "auto",
             "hard budget of host memory: the chunks that do not stay on the device; 0: all stay, "
             "or are on disk and pass fixed staging memory"},
            &C::host_memory));
  table.push_back(disk_folders({"disk", memory, "DIR[,DIR]", "none",
                                "folders for chunks that the host has no room for, used side by "
                                "side; files are removed at the end"}));
  table.push_back(bytes({"disk-memory", memory, "SIZE", "0",
                         "hard budget on disk, in equal parts for the folders; auto (with --disk "
                         "alone, too): up to 90 % of what is free"},
                        &C::disk_memory));
  table.push_back(boolean({"encrypt-disk", memory, "", "off",
                           "AES-256-GCM over what is on disk; checkpoints stay plain"},
                          &C::encrypt_disk));
  table.push_back(text({"compute-dtype", memory, "auto|fp32|bf16", "auto",
                        "dtype of matrix products; auto: bf16 where the processor has it"},
                       &C::compute_dtype));
  table.push_back(text({"machine", memory, "FILE.json", "measured",
                        "rates that plans reckon with, as doctor --measure writes them"},
                       &C::machine));
  table.push_back(integer({"threads", memory, "N", "all", "threads that compute"}, &C::threads, 1));
  table.push_back(text(
      {"out", output, "DIR", "runs/<time>",
       "everything that the run writes: metrics, plan, access trace, checkpoints, model", true},
      &C::out));
  table.push_back(boolean(
      {"overwrite-output-dir", output, "", "off", "replace the run that a folder holds", true},
      &C::overwrite_output_dir));
  table.push_back(
      integer({"save-steps", output, "N", "0", "checkpoint every N steps; 0: none", true},
              &C::save_steps, 0));
  table.push_back(
      integer({"save-total-limit", output, "N", "2", "checkpoints that are kept; 0: all", true},
              &C::save_total_limit, 0));
  table.push_back(text({"resume-from-checkpoint", output, "PATH|latest", "none",
                        "go on where a checkpoint was written", true},
                       &C::resume_from_checkpoint));
  table.push_back(choice<TrainConfig, LogFormat>(
      {"log-format", output, "auto|json|plain", "auto",
       "json: the objects of metrics.jsonl on stdout", true},
      &C::log_format,
      {{LogFormat::kAuto, "auto"}, {LogFormat::kJson, "json"}, {LogFormat::kPlain, "plain"}}));
  table.push_back(boolean(
      {"tensorboard", output, "", "off", "event files for TensorBoard in OUT/tensorboard", true},
      &C::tensorboard));
  table.push_back(text({"trace", output, "FILE.json", "none",
                        "a Chrome/Perfetto trace: a track a stream, a counter a tier", true},
                       &C::trace));
}

// True where the name is one of a later version; throws unless the value is the default.
bool is_later_option(const std::string& name, const Values& values) {
  for (const LaterOption& later : later_options()) {
    if (later.name != name) continue;
    const std::string given = values.empty() ? "true" : values.front();
    if (values.size() > 1 || given != later.fallback) {
      throw Error(
          ErrorKind::kBadInput,
          "--" + name + " " + (given.empty() ? "\"\"" : given) +
              " is not in this version; leave it out" +
              (later.fallback.empty() ? std::string() : " or give " + std::string(later.fallback)));
    }
    return true;
  }
  return false;
}

template <typename Visit>
void for_each_path(TrainConfig& config, const Visit& visit) {
  for (std::string* path : {&config.model, &config.out, &config.machine, &config.trace}) {
    visit(*path);
  }
  if (config.resume_from_checkpoint != "latest") visit(config.resume_from_checkpoint);
  for (std::vector<std::string>* paths : {&config.data, &config.eval_data, &config.disk}) {
    for (std::string& path : *paths) visit(path);
  }
}

void check_together(const TrainConfig& config) {
  if (config.model.empty()) {
    throw Error(ErrorKind::kBadInput, "--model is required: a Hugging Face folder");
  }
  if (config.steps && config.epochs) {
    throw Error(ErrorKind::kBadInput, "--steps and --epochs are both given; give one");
  }
  const bool floor_served = config.lr_scheduler_type == ScheduleKind::kCosine ||
                            config.lr_scheduler_type == ScheduleKind::kWsd;
  if (config.min_lr_ratio > 0 && !floor_served) {
    throw Error(
        ErrorKind::kBadInput,
        "--min-lr-ratio belongs to the schedules cosine and wsd; choose one or leave it out");
  }
  if (config.disk_memory == kAutoBytes && config.disk.empty()) {
    throw Error(ErrorKind::kBadInput, "--disk-memory auto needs --disk DIR, which says where");
  }
  if (config.encrypt_disk && config.disk_memory == 0) {
    throw Error(ErrorKind::kBadInput,
                "--encrypt-disk is for what is on disk; give --disk DIR, or leave it out");
  }
  const std::string& dtype = config.compute_dtype;
  if (dtype != "auto" && dtype != "fp32" && dtype != "bf16") {
    throw Error(ErrorKind::kBadInput,
                "--compute-dtype " + dtype + " is none of auto, fp32 and bf16");
  }
}

}  // namespace

const std::vector<Option>& train_options() {
  static const std::vector<Option> table = [] {
    std::vector<Option> rows;
    append_model_and_data(rows);
    append_optimizer(rows);
    append_machine_and_output(rows);
    return rows;
  }();
  return table;
}

const std::vector<LaterOption>& later_options() {
  static const std::vector<LaterOption> table{
      {"activations", "auto"}, {"allow-lossy", "false"}, {"error-bound", "adaptive"}};
  return table;
}

void refuse_data_options(const OptionValues& values) {
  for (const auto& [given, texts] : values) {
    const Option* option = find_option(train_options(), canonical_option(given));
    if (option == nullptr || option->group != kDataGroup) continue;
    throw Error(ErrorKind::kBadInput,
                "--" + option->name + " belongs to train: a plan reads no data; leave it out");
  }
}

TrainConfig resolve_config(const OptionValues& given) {
  TrainConfig config;
  OptionValues values;
  for (const auto& [name, texts] : given) values[canonical_option(name)] = texts;
  if (const auto file = values.find("deepspeed"); file != values.end()) {
    const std::string path = single("deepspeed", file->second);
    if (!path.empty()) values = with_deepspeed_file(values, path, config.notes);
  }
  for (const auto& [name, texts] : values) {
    if (const Option* option = find_option(train_options(), name)) {
      option->set(config, texts);
    } else if (!is_later_option(name, texts)) {
      refuse_unknown_option(name, train_options());
    }
  }
  if (!config.disk.empty() && !values.contains("disk-memory")) config.disk_memory = kAutoBytes;
  check_together(config);
  config.device = to_string(device_of(config));
  config.compute_dtype = computes_in_bf16(config) ? "bf16" : "fp32";
  return config;
}

TrainConfig with_absolute_paths(TrainConfig config) {
  for_each_path(config, [&](std::string& path) {
    if (path.empty() || path.front() == '/') return;
    std::error_code code;
    const std::string absolute = std::filesystem::absolute(path, code).string();
    if (code) return;  // there is no folder that it could be in
    // What is to be read and is not there is refused, in the user's words.
    const bool is_written = &path == &config.out || &path == &config.trace;
    if (!is_written && !std::filesystem::exists(absolute, code)) return;
    config.given_paths[absolute] = path;
    path = absolute;
  });
  return config;
}

std::string given_path(const TrainConfig& config, const std::string& path) {
  const auto given = config.given_paths.find(path);
  return given == config.given_paths.end() ? path : given->second;
}

TrainConfig with_given_paths(TrainConfig config) {
  for_each_path(config, [&](std::string& path) { path = given_path(config, path); });
  return config;
}

DeviceId device_of(const TrainConfig& config) { return parse_device(config.device); }

bool computes_in_bf16(const TrainConfig& config) {
  if (config.compute_dtype == "auto") {
    return device_of(config).kind == DeviceKind::kCpu && ops::has_native_bf16();
  }
  return config.compute_dtype == "bf16";
}

std::vector<std::string> changed_options(const TrainConfig& now, const TrainConfig& before) {
  // The length of a run is none of them: that of the checkpoint is more than its options say.
  constexpr std::array kNames{
      "freeze",       "batch-size",    "sequence-length", "gradient-accumulation-steps",
      "shuffle",      "seed",          "learning-rate",   "lr-scheduler-type",
      "warmup-steps", "min-lr-ratio",  "decay-steps",     "optimizer",
      "momentum",     "weight-decay",  "adam-beta1",      "adam-beta2",
      "adam-epsilon", "max-grad-norm", "compute-dtype"};
  std::vector<std::string> notes;
  for (const char* name : kNames) {
    const Option* option = find_option(train_options(), name);
    const std::string value = fmt::format("{}", fmt::join(option->get(now), " "));
    const std::string old = fmt::format("{}", fmt::join(option->get(before), " "));
    if (value == old) continue;
    notes.push_back(fmt::format("--{} is {}; the checkpoint was written {}", name,
                                value.empty() ? "not given" : value,
                                old.empty() ? "without it" : "with " + old));
  }
  return notes;
}

std::optional<TrainConfig> config_of_yaml(const std::string& yaml) {
  TrainConfig config;
  OptionValues values;
  try {
    values = read_config_text(yaml, "the configuration", names_of(train_options()));
  } catch (const Error&) {
    return std::nullopt;
  }
  for (const auto& [name, texts] : values) {
    const Option* option = find_option(train_options(), name);
    if (option == nullptr) continue;
    try {
      option->set(config, texts);
    } catch (const Error&) {  // of another version
    }
  }
  return config;
}

namespace {

// Whether YAML 1.1 may have a plain text for a truth value, nothing, a number or a date.
bool needs_quotes(const std::string& text) {
  constexpr std::array kWords{"y",    "yes",   "n",    "no", "on", "off",
                              "true", "false", "null", "~",  "=",  "<<"};
  const std::string word = lower_case(text);
  if (std::find(kWords.begin(), kWords.end(), word) != kWords.end()) return true;
  const bool begins_a_number = word.find_first_of("0123456789+-.") == 0;
  return begins_a_number && word.find('/') == std::string::npos;
}

// 5e-05 is a number to YAML 1.2 alone, 5.0e-05 to YAML 1.1, too.
std::string with_point(std::string number) {
  const size_t exponent = number.find('e');
  if (exponent != std::string::npos && number.find('.') == std::string::npos) {
    number.insert(exponent, ".0");
  }
  return number;
}

void emit(YAML::Emitter& out, const Option& option, const std::string& value) {
  const bool is_text = option.value != "X" && option.value != "N" && option.value != "SIZE" &&
                       option.value != "true|false" && !option.value.empty();
  if (is_text && needs_quotes(value)) out << YAML::DoubleQuoted;
  out << (option.value == "X" ? with_point(value) : value);
}

}  // namespace

std::string to_yaml(const TrainConfig& absolute) {
  const TrainConfig config = with_given_paths(absolute);
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (const Option& option : train_options()) {
    const Values values = option.get(config);
    if (values.empty() || (values.size() == 1 && values.front().empty())) continue;
    std::string key = option.name;
    std::replace(key.begin(), key.end(), '-', '_');
    out << YAML::Key << key << YAML::Value;
    if (option.many) out << YAML::BeginSeq;
    for (const std::string& value : values) emit(out, option, value);
    if (option.many) out << YAML::EndSeq;
  }
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace hetmem
