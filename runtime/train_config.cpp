#include "runtime/train_config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/byte_size.h"
#include "core/error.h"

namespace hetmem {
namespace {

using Values = std::vector<std::string>;

[[noreturn]] void refuse(const std::string& name, const std::string& value,
                         const std::string& expected) {
  throw Error(ErrorKind::kBadInput, "--" + name + " is \"" + value + "\"; it must be " + expected);
}

const std::string& single(const std::string& name, const Values& values) {
  if (values.size() != 1) {
    throw Error(ErrorKind::kBadInput,
                "--" + name + " takes one value, got " + std::to_string(values.size()));
  }
  return values.front();
}

template <typename Number>
std::string number_text(Number number) {
  char text[40];
  const auto [end, code] = std::to_chars(text, text + sizeof(text), number);
  return {text, end};
}

template <typename Number>
Number parse_number(const std::string& name, const std::string& text, Number least, Number most,
                    const std::string& expected) {
  Number number{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc() || end != text.data() + text.size() || !(number >= least) ||
      !(number <= most)) {
    refuse(name, text, expected);
  }
  return number;
}

// What a row says apart from how it reads and writes its member.
struct Head {
  const char* name;
  const char* group;
  const char* value;
  const char* fallback;
  const char* help;
  bool train_only = false;
};

Option row(const Head& head) {
  Option option;
  option.name = head.name;
  option.group = head.group;
  option.value = head.value;
  option.fallback = head.fallback;
  option.help = head.help;
  option.train_only = head.train_only;
  return option;
}

Option text(const Head& head, std::string TrainConfig::*member) {
  Option option = row(head);
  option.set = [name = option.name, member](TrainConfig& config, const Values& values) {
    config.*member = single(name, values);
  };
  option.get = [member](const TrainConfig& config) { return Values{config.*member}; };
  return option;
}

Option paths(const Head& head, std::vector<std::string> TrainConfig::*member) {
  Option option = row(head);
  option.many = true;
  option.set = [member](TrainConfig& config, const Values& values) { config.*member = values; };
  option.get = [member](const TrainConfig& config) { return config.*member; };
  return option;
}

Option boolean(const Head& head, bool TrainConfig::*member) {
  Option option = row(head);
  option.set = [name = option.name, member](TrainConfig& config, const Values& values) {
    const std::string value = values.empty() ? "true" : single(name, values);
    if (value != "true" && value != "false") refuse(name, value, "true or false");
    config.*member = value == "true";
  };
  option.get = [member](const TrainConfig& config) {
    return Values{config.*member ? "true" : "false"};
  };
  return option;
}

Option integer(const Head& head, int64_t TrainConfig::*member, int64_t least) {
  Option option = row(head);
  option.set = [name = option.name, member, least](TrainConfig& config, const Values& values) {
    config.*member = parse_number<int64_t>(name, single(name, values), least, int64_t{1} << 40,
                                           "a whole number of at least " + std::to_string(least));
  };
  // Below the least that a user may give stands for "as the default has it".
  option.get = [member, least](const TrainConfig& config) {
    return config.*member < least ? Values{} : Values{number_text(config.*member)};
  };
  return option;
}

struct RealRange {
  double least;
  double most;
  const char* expected;
};
constexpr RealRange kAnyPositive{0, 1e300, "a number of at least 0"};
constexpr RealRange kBelowOne{0, 0x1.fffffffffffffp-1, "a number from 0 to below 1"};
constexpr RealRange kRatio{0, 1, "a number from 0 to 1"};

Option real(const Head& head, double TrainConfig::*member, RealRange range) {
  Option option = row(head);
  option.set = [name = option.name, member, range](TrainConfig& config, const Values& values) {
    config.*member =
        parse_number<double>(name, single(name, values), range.least, range.most, range.expected);
  };
  option.get = [member](const TrainConfig& config) { return Values{number_text(config.*member)}; };
  return option;
}

Option bytes(const Head& head, int64_t TrainConfig::*member) {
  Option option = row(head);
  option.set = [name = option.name, member](TrainConfig& config, const Values& values) {
    const std::string& value = single(name, values);
    try {
      config.*member = value == "auto" ? kAutoBytes : parse_byte_size(value);
    } catch (const Error& error) {
      throw Error(error.kind(), "--" + name + ": " + error.what());
    }
  };
  option.get = [member](const TrainConfig& config) {
    return Values{config.*member == kAutoBytes ? "auto" : std::to_string(config.*member)};
  };
  return option;
}

template <typename Enum>
using Names = std::vector<std::pair<Enum, std::string>>;

template <typename Enum>
Option choice(const Head& head, Enum TrainConfig::*member, Names<Enum> names,
              const Values& later = {}) {
  Option option = row(head);
  option.set = [name = option.name, member, names, later](TrainConfig& config,
                                                          const Values& values) {
    const std::string& value = single(name, values);
    if (std::find(later.begin(), later.end(), value) != later.end()) {
      throw Error(ErrorKind::kBadInput, "--" + name + " " + value + " is not in this version");
    }
    std::string expected = "one of";
    for (const auto& [key, text] : names) {
      if (text == value) {
        config.*member = key;
        return;
      }
      expected += " " + text;
    }
    refuse(name, value, expected);
  };
  option.get = [member, names](const TrainConfig& config) {
    for (const auto& [key, text] : names) {
      if (key == config.*member) return Values{text};
    }
    return Values{};
  };
  return option;
}

Option optional_steps() {
  Option option =
      row({"steps", "Data and steps", "N", "", "optimizer steps (instead of --epochs)", true});
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
  Option option = row(head);
  option.set = [name = option.name, member](TrainConfig& config, const Values& values) {
    config.*member = parse_number<double>(
        name, single(name, values), std::numeric_limits<double>::min(), 1e12, "a number above 0");
  };
  option.get = [member](const TrainConfig& config) {
    return config.*member ? Values{number_text(*(config.*member))} : Values{};
  };
  return option;
}

Option seed_option() {
  Option option = row({"seed", "Data and steps", "N", "42", "seed of every random draw"});
  option.set = [](TrainConfig& config, const Values& values) {
    config.seed = parse_number<uint64_t>("seed", single("seed", values), 0,
                                         std::numeric_limits<uint64_t>::max(),
                                         "a whole number of at least 0");
  };
  option.get = [](const TrainConfig& config) { return Values{number_text(config.seed)}; };
  return option;
}

void append_model_and_data(std::vector<Option>& table) {
  using C = TrainConfig;
  const char* model = "Model";
  const char* data = "Data and steps";
  table.push_back(text({"model", model, "DIR", "", "Hugging Face folder (required)"}, &C::model));
  table.push_back(boolean(
      {"from-scratch", model, "", "off", "initialise as Hugging Face does; needs config.json only"},
      &C::from_scratch));
  table.push_back(
      text({"freeze", model, "REGEX", "none", "parameters whose names match are not trained"},
           &C::freeze));
  table.push_back(paths(
      {"data", data, "PATH...", "", "token files .bin, text, .jsonl, folders", true}, &C::data));
  table.push_back(paths({"eval-data", data, "PATH...", "none", "the same, for evaluation", true},
                        &C::eval_data));
  table.push_back(text({"data-glob", data, "GLOB", "*", "which files of a folder are data", true},
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
  table.push_back(seed_option());
}

void append_optimizer(std::vector<Option>& table) {
  using C = TrainConfig;
  const char* group = "Optimizer";
  table.push_back(real({"learning-rate", group, "X", "5e-5", "peak learning rate"},
                       &C::learning_rate, kAnyPositive));
  table.push_back(choice<ScheduleKind>({"lr-scheduler-type", group, "NAME", "linear",
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
  table.push_back(choice<OptimizerKind>(
      {"optimizer", group, "NAME", "adamw", "adamw or sgd"}, &C::optimizer,
      {{OptimizerKind::kAdamW, "adamw"}, {OptimizerKind::kSgd, "sgd"}}, {"adamw_8bit"}));
  table.push_back(real({"momentum", group, "X", "0.9", "of sgd"}, &C::momentum, kAnyPositive));
  table.push_back(real({"weight-decay", group, "X", "0", "not on biases and norm weights"},
                       &C::weight_decay, kAnyPositive));
  table.push_back(real({"adam-beta1", group, "X", "0.9", ""}, &C::adam_beta1, kBelowOne));
  table.push_back(real({"adam-beta2", group, "X", "0.999", ""}, &C::adam_beta2, kBelowOne));
  table.push_back(real({"adam-epsilon", group, "X", "1e-8", ""}, &C::adam_epsilon, kAnyPositive));
  table.push_back(real({"max-grad-norm", group, "X", "1.0", "clip the global norm; 0: off"},
                       &C::max_grad_norm, kAnyPositive));
  table.push_back(choice<OnNonFinite>(
      {"on-nonfinite", group, "stop|skip", "stop", "when loss or gradient is not finite", true},
      &C::on_nonfinite, {{OnNonFinite::kStop, "stop"}, {OnNonFinite::kSkip, "skip"}}));
}

void append_machine_and_output(std::vector<Option>& table) {
  using C = TrainConfig;
  const char* memory = "Memory and machine";
  const char* output = "Output";
  table.push_back(text({"device", memory, "auto|cpu", "auto", "where to train"}, &C::device));
  table.push_back(bytes({"device-memory", memory, "SIZE", "auto",
                         "hard budget of the device tier (1.5GiB, 2GB, bytes)"},
                        &C::device_memory));
  table.push_back(bytes({"host-memory", memory, "SIZE", "auto", "hard budget of the host tier"},
                        &C::host_memory));
  table.push_back(text({"compute-dtype", memory, "auto|fp32", "auto", "dtype of the computation"},
                       &C::compute_dtype));
  table.push_back(integer({"threads", memory, "N", "all", "threads that compute"}, &C::threads, 1));
  table.push_back(
      text({"out", output, "DIR", "runs/<time>", "everything that the run writes", true}, &C::out));
  table.push_back(boolean(
      {"overwrite-output-dir", output, "", "off", "replace a folder that is not empty", true},
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
  table.push_back(choice<LogFormat>(
      {"log-format", output, "auto|json|plain", "auto",
       "json: the objects of metrics.jsonl on stdout", true},
      &C::log_format,
      {{LogFormat::kAuto, "auto"}, {LogFormat::kJson, "json"}, {LogFormat::kPlain, "plain"}}));
  table.push_back(
      text({"trace", output, "FILE.json", "none", "a Chrome/Perfetto trace", true}, &C::trace));
}

std::string canonical(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

const Option* find_option(const std::string& name) {
  for (const Option& option : train_options()) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

// True where the name is one of a later version; throws unless the value is the default.
bool is_later_option(const std::string& name, const Values& values) {
  for (const LaterOption& later : later_options()) {
    if (later.name != name) continue;
    const std::string given = values.empty() ? "true" : values.front();
    if (values.size() > 1 || given != later.fallback) {
      throw Error(
          ErrorKind::kBadInput,
          "--" + name + " " + given + " is not in this version; leave " + "it out" +
              (later.fallback.empty() ? std::string() : " or give " + std::string(later.fallback)));
    }
    return true;
  }
  return false;
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
  if (config.device != "auto" && config.device != "cpu") {
    throw Error(ErrorKind::kBadInput,
                "--device " + config.device + " is not in this version; give auto or cpu");
  }
  if (config.compute_dtype != "auto" && config.compute_dtype != "fp32") {
    throw Error(ErrorKind::kBadInput, "--compute-dtype " + config.compute_dtype +
                                          " is not in this version; give auto or fp32");
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
      {"disk-memory", "0"},        {"disk", ""},
      {"activations", "auto"},     {"allow-lossy", "false"},
      {"error-bound", "adaptive"}, {"optimizer-overlap", "on"},
      {"encrypt-disk", "false"},   {"deepspeed", ""},
      {"tensorboard", "false"},    {"machine", ""}};
  return table;
}

TrainConfig resolve_config(const OptionValues& values) {
  TrainConfig config;
  for (const auto& [given, texts] : values) {
    const std::string name = canonical(given);
    if (const Option* option = find_option(name)) {
      option->set(config, texts);
    } else if (!is_later_option(name, texts)) {
      throw Error(ErrorKind::kBadInput, "unknown option \"" + given + "\"; --help lists them");
    }
  }
  check_together(config);
  return config;
}

OptionValues read_config_file(const std::string& path) {
  OptionValues values;
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (!root.IsMap()) {
      throw Error(ErrorKind::kBadInput, path + " is not a map of options to values");
    }
    for (const auto& entry : root) {
      const std::string key = canonical(entry.first.as<std::string>());
      if (values.count(key) != 0) {
        throw Error(ErrorKind::kBadInput, path + " gives \"" + key + "\" twice");
      }
      Values& texts = values[key];
      if (entry.second.IsSequence()) {
        for (const auto& item : entry.second) texts.push_back(item.as<std::string>());
      } else if (entry.second.IsScalar()) {
        texts.push_back(entry.second.as<std::string>());
      } else if (entry.second.IsNull()) {
        values.erase(key);
      } else {
        throw Error(ErrorKind::kBadInput, path + ": \"" + key + "\" is neither a value nor a list");
      }
    }
  } catch (const YAML::BadFile&) {
    throw Error(ErrorKind::kBadInput, "cannot read the configuration file " + path);
  } catch (const YAML::Exception& error) {
    throw Error(ErrorKind::kBadInput, path + " is not valid YAML: " + error.what());
  }
  return values;
}

std::string to_yaml(const TrainConfig& config) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (const Option& option : train_options()) {
    const Values values = option.get(config);
    if (values.empty() || (values.size() == 1 && values.front().empty())) continue;
    std::string key = option.name;
    std::replace(key.begin(), key.end(), '-', '_');
    out << YAML::Key << key << YAML::Value;
    if (option.many) {
      out << values;
    } else {
      out << values.front();
    }
  }
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace hetmem
