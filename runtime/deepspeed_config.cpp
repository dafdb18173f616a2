#include "runtime/deepspeed_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "io/file.h"
#include "io/json.h"
#include "runtime/train_config.h"

namespace hetmem {
namespace {

using options::number_text;

// A value of the file: absent, "auto", or there.
template <typename T>
struct Setting {
  bool is_auto = false;
  std::optional<T> value;
  bool absent() const { return !is_auto && !value; }
};

// The file by dotted paths ("optimizer.params.lr"). Remembers what was asked for, so that the rest
// can be named.
class Reader {
 public:
  Reader(std::string_view json, const std::string& source)
      : source_(source), root_(parse_json(json, source)) {
    if (!root_.is_object()) {
      throw Error(ErrorKind::kBadInput,
                  source + " is not a JSON object; give a DeepSpeed configuration");
    }
  }

  bool has(const std::string& path) { return find(path) != nullptr; }

  // An object whose keys are all named where nothing asks for them.
  bool has_section(const std::string& path) {
    const Json* at = find(path);
    if (at != nullptr && !at->is_object()) refuse(path, "must be an object");
    return at != nullptr;
  }

  Setting<double> real(const std::string& path, double least = 0) {
    return read<double>(path, "a number of at least " + number_text(least) + " or \"auto\"",
                        [&](const Json& at) -> std::optional<double> {
                          if (!at.is_number() || !(at.get<double>() >= least)) return {};
                          return at.get<double>();
                        });
  }

  // Written 1000 or 1e3. The limit keeps products of two within 64 bits.
  Setting<int64_t> whole(const std::string& path, int64_t least, int64_t most = int64_t{1} << 31) {
    const std::string expected =
        "a whole number from " + number_text(least) + " to " + number_text(most) + " or \"auto\"";
    return read<int64_t>(path, expected, [&](const Json& at) -> std::optional<int64_t> {
      if (!at.is_number()) return {};
      const auto number = at.get<double>();
      if (number != std::floor(number) || number < static_cast<double>(least) ||
          number > static_cast<double>(most)) {
        return {};
      }
      return static_cast<int64_t>(number);
    });
  }

  Setting<bool> boolean(const std::string& path) {
    return read<bool>(path, "true, false or \"auto\"", [](const Json& at) -> std::optional<bool> {
      if (!at.is_boolean()) return {};
      return at.get<bool>();
    });
  }

  std::optional<std::string> text(const std::string& path) {
    const Json* at = find(path);
    if (at == nullptr) return {};
    if (!at->is_string()) refuse(path, "must be a text");
    return at->get<std::string>();
  }

  // Two numbers in a list.
  Setting<std::pair<double, double>> pair(const std::string& path) {
    using Pair = std::pair<double, double>;
    return read<Pair>(path, "a list of two numbers or \"auto\"",
                      [](const Json& at) -> std::optional<Pair> {
                        if (!at.is_array() || at.size() != 2) return {};
                        if (!at[0].is_number() || !at[1].is_number()) return {};
                        return Pair{at[0].get<double>(), at[1].get<double>()};
                      });
  }

  // "FILE: key is VALUE; " and what is to be done.
  [[noreturn]] void refuse(const std::string& path, const std::string& what) {
    const Json* at = find(path);
    constexpr size_t kMostShown = 60;
    std::string shown = at == nullptr ? "absent" : at->dump();
    if (shown.size() > kMostShown) shown = shown.substr(0, kMostShown) + "...";
    throw Error(ErrorKind::kBadInput, source_ + ": \"" + path + "\" is " + shown + "; it " + what);
  }

  // The keys that nothing asked for, in the order of the file.
  std::vector<std::string> unread() const {
    std::vector<std::string> names;
    list_unread(root_, "", names);
    return names;
  }

 private:
  template <typename T, typename Convert>
  Setting<T> read(const std::string& path, const std::string& expected, const Convert& convert) {
    Setting<T> setting;
    const Json* at = find(path);
    if (at == nullptr) return setting;
    setting.is_auto = at->is_string() && at->get<std::string>() == "auto";
    if (setting.is_auto) return setting;
    setting.value = convert(*at);
    if (!setting.value) refuse(path, "must be " + expected);
    return setting;
  }

  const Json* find(const std::string& path) {
    const Json* at = &root_;
    for (size_t begin = 0; begin < path.size();) {
      const size_t end = std::min(path.find('.', begin), path.size());
      const std::string key = path.substr(begin, end - begin);
      if (!at->is_object()) refuse(path.substr(0, begin - 1), "must be an object");
      const auto found = at->find(key);
      if (found == at->end()) return nullptr;
      at = &*found;
      read_.insert(at);
      begin = end + 1;
    }
    return at;
  }

  void list_unread(const Json& object, const std::string& prefix,
                   std::vector<std::string>& names) const {
    for (const auto& [key, value] : object.items()) {
      if (read_.count(&value) == 0) {
        names.push_back(prefix + key);
      } else if (value.is_object()) {
        list_unread(value, prefix + key + ".", names);
      }
    }
  }

  const std::string& source_;
  Json root_;
  std::set<const Json*> read_;
};

class Mapper {
 public:
  Mapper(std::string_view json, const std::string& source, const OptionValues& given)
      : file_(json, source), source_(source), given_(given) {}

  DeepSpeedMapping map() {
    map_batch();
    if (const auto clip = file_.real("gradient_clipping"); clip.value) {
      give("gradient_clipping", "max-grad-norm", number_text(*clip.value));
    }
    map_precision();
    if (file_.has_section("optimizer")) map_optimizer();
    if (file_.has_section("scheduler")) map_scheduler();
    map_learning_rate();
    map_offload();
    if (const auto board = file_.boolean("tensorboard.enabled"); board.value) {
      give("tensorboard.enabled", "tensorboard", *board.value ? "true" : "false");
    }
    list_the_rest();
    return std::move(mapping_);
  }

 private:
  void give(const std::string& key, const std::string& option, const std::string& value,
            bool implied = false) {
    mapping_.options.push_back({key, option, value, implied});
  }
  void note(const std::string& text) { mapping_.notes.push_back(source_ + ": " + text); }

  // What is given elsewhere; nothing where it is no such number, which its own option says.
  std::optional<double> given_number(const std::string& option) const {
    const auto found = given_.find(option);
    if (found == given_.end() || found->second.size() != 1) return {};
    const std::string& text = found->second.front();
    double number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code != std::errc() || end != text.data() + text.size()) return {};
    return number;
  }

  struct Count {
    std::string name;  // of where it was found
    std::optional<int64_t> value;
  };
  Count read_count(const std::string& key, const std::string& option) {
    const Setting<int64_t> setting = file_.whole(key, 1);
    if (setting.value) {
      give(key, option, number_text(*setting.value));
      return {key, setting.value};
    }
    const std::optional<double> given = given_number(option);
    constexpr double kMost = int64_t{1} << 31;
    if (!given || !(*given >= 1) || !(*given <= kMost)) return {key, {}};
    return {"--" + option, static_cast<int64_t>(*given)};
  }

  // train_batch_size = micro-batch x accumulation x devices, of which there is one here. The one
  // that is said nowhere follows from the others, as in DeepSpeed.
  void map_batch() {
    const Count micro = read_count("train_micro_batch_size_per_gpu", "batch-size");
    const Count accumulation =
        read_count("gradient_accumulation_steps", "gradient-accumulation-steps");
    const std::string key = "train_batch_size";
    const Setting<int64_t> train = file_.whole(key, 1);
    if (!train.value) return;
    const int64_t whole = *train.value;
    if (micro.value && accumulation.value) {
      const int64_t product = *micro.value * *accumulation.value;
      if (product == whole) return;
      file_.refuse(key, "must be " + micro.name + " " + number_text(*micro.value) + " x " +
                            accumulation.name + " " + number_text(*accumulation.value) +
                            " x 1 device = " + number_text(product) +
                            "; correct one of them or give \"auto\"");
    }
    const Count& known = micro.value ? micro : accumulation;
    const int64_t factor = known.value.value_or(1);
    if (whole % factor != 0) {
      file_.refuse(key, "must be a multiple of " + known.name + " " + number_text(factor));
    }
    give(key, micro.value ? "gradient-accumulation-steps" : "batch-size",
         number_text(whole / factor));
  }

  void map_precision() {
    for (const char* key : {"fp16.enabled", "amp.enabled"}) {
      if (file_.boolean(key).value.value_or(false)) {
        file_.refuse(key,
                     "must be false or \"auto\": products are computed in fp32 or bf16 here "
                     "(\"bf16\": {\"enabled\": true})");
      }
    }
    const std::string key = file_.has("bf16") ? "bf16.enabled" : "bfloat16.enabled";  // as once
    if (const auto bf16 = file_.boolean(key); bf16.value) {
      give(key, "compute-dtype", *bf16.value ? "bf16" : "fp32");
    }
  }

  // A switch of the optimizer that has one position here.
  void require(const std::string& key, bool position, const std::string& why) {
    const Setting<bool> setting = file_.boolean("optimizer.params." + key);
    if (setting.value && *setting.value != position) {
      file_.refuse("optimizer.params." + key,
                   "must be " + std::string(position ? "true" : "false") + ": " + why);
    }
  }

  void map_optimizer() {
    const std::string name = lower_case(file_.text("optimizer.type").value_or(""));
    const bool adam =
        name == "adam" || name == "adamw" || name == "fusedadam" || name == "deepspeedcpuadam";
    if (!adam && name != "sgd") {
      file_.refuse("optimizer.type",
                   "must be Adam, AdamW, FusedAdam, DeepSpeedCPUAdam or SGD in this version");
    }
    if (file_.has_section("optimizer.params") && file_.has("optimizer.params.max_grad_norm")) {
      file_.refuse("optimizer.params.max_grad_norm", "is no parameter: give gradient_clipping");
    }
    give("optimizer.type", "optimizer", adam ? "adamw" : "sgd");
    require("maximize", false, "the loss is minimised");
    if (adam) {
      map_adam(name == "adamw");
    } else {
      map_sgd();
    }
  }

  void map_real(const std::string& key, const std::string& option, double implied) {
    const Setting<double> setting = file_.real(key);
    if (!setting.is_auto) {
      give(key, option, number_text(setting.value.value_or(implied)), setting.absent());
    }
  }

  void map_adam(bool decoupled) {
    const std::string params = "optimizer.params.";
    const auto betas = file_.pair(params + "betas");
    if (!betas.is_auto) {
      const auto [beta1, beta2] = betas.value.value_or(std::pair{0.9, 0.999});
      give(params + "betas", "adam-beta1", number_text(beta1), betas.absent());
      give(params + "betas", "adam-beta2", number_text(beta2), betas.absent());
    }
    map_real(params + "eps", "adam-epsilon", 1e-8);
    require("bias_correction", true, "Adam corrects its moments here");
    require("amsgrad", false, "AdamW without it is what there is here");
    const Setting<bool> torch_adam = file_.boolean(params + "torch_adam");
    const bool adam_w = decoupled || file_.boolean(params + "adam_w_mode").value.value_or(true);
    // PyTorch's AdamW, which torch_adam chooses, has a default of its own.
    map_real(params + "weight_decay", "weight-decay",
             adam_w && torch_adam.value.value_or(false) ? 0.01 : 0.0);
    if (adam_w) return;
    // Without decay both are one.
    const Setting<double> decay = file_.real(params + "weight_decay");
    if (decay.value.value_or(given_number("weight-decay").value_or(0)) != 0) {
      file_.refuse(params + "adam_w_mode",
                   "must be true, or weight_decay 0: the decay is decoupled here (AdamW)");
    }
  }

  void map_sgd() {
    const std::string params = "optimizer.params.";
    map_real(params + "momentum", "momentum", 0);
    map_real(params + "weight_decay", "weight-decay", 0);
    require("nesterov", false, "momentum is plain here");
    if (file_.real(params + "dampening").value.value_or(0) != 0) {
      file_.refuse(params + "dampening", "must be 0");
    }
  }

  // The schedules that transformers names as equal, and the cosine.
  void map_scheduler() {
    const std::string type = file_.text("scheduler.type").value_or("");
    const std::string params = "scheduler.params.";
    file_.has_section("scheduler.params");
    const bool cosine = type == "WarmupCosineLR";
    if (type == "WarmupLR") {
      give("scheduler.type", "lr-scheduler-type", "constant_with_warmup");
    } else if (type == "WarmupDecayLR" || cosine) {
      give("scheduler.type", "lr-scheduler-type", cosine ? "cosine" : "linear");
      map_total_steps();
    } else {
      file_.refuse("scheduler.type",
                   "must be WarmupLR, WarmupDecayLR or WarmupCosineLR in this version");
    }
    if (cosine) map_real(params + "cos_min_ratio", "min-lr-ratio", 1e-4);
    const std::string least = params + (cosine ? "warmup_min_ratio" : "warmup_min_lr");
    if (file_.real(least).value.value_or(0) != 0) {
      file_.refuse(least, "must be 0 or \"auto\": a warm-up begins at 0 here");
    }
    map_warmup();
  }

  void map_total_steps() {
    const std::string key = "scheduler.params.total_num_steps";
    const Setting<int64_t> total = file_.whole(key, 1);
    if (total.absent()) file_.refuse(key, "must be the number of steps or \"auto\"");
    if (total.value) give(key, "steps", number_text(*total.value));
  }

  void map_warmup() {
    const std::string key = "scheduler.params.warmup_num_steps";
    const Setting<int64_t> setting = file_.whole(key, 1);
    double steps = given_number("warmup-steps").value_or(0);
    if (!setting.is_auto) {
      // DeepSpeed's defaults, and its least.
      const int64_t whole = std::max<int64_t>(2, setting.value.value_or(1000));
      give(key, "warmup-steps", number_text(whole), setting.absent());
      if (setting.value || given_.count("warmup-steps") == 0) steps = static_cast<double>(whole);
    }
    const std::string type_key = "scheduler.params.warmup_type";
    const std::optional<std::string> type = file_.text(type_key);
    if (type && *type != "linear") {
      file_.refuse(type_key, "must be \"linear\", which is the warm-up that there is here");
    }
    if (!type && steps > 0) {
      note("\"" + type_key +
           "\" is absent, which is \"log\" in DeepSpeed: the warm-up is linear "
           "here, as --lr-scheduler-type has it");
    }
  }

  // A scheduler with a peak of its own has the last word, as in DeepSpeed.
  void map_learning_rate() {
    const std::string rate_key = "optimizer.params.lr";
    const std::string peak_key = "scheduler.params.warmup_max_lr";
    const Setting<double> rate = file_.real(rate_key);
    Setting<double> peak;
    bool implied = false;
    if (const auto type = file_.text("scheduler.type"); type && *type != "WarmupCosineLR") {
      peak = file_.real(peak_key);
      implied = peak.absent() && *type == "WarmupDecayLR";
      if (implied) peak.value = 0.001;
    }
    if (peak.value) {
      give(peak_key, "learning-rate", number_text(*peak.value), implied);
      if (rate.value && *rate.value != *peak.value) {
        note("\"" + rate_key + "\" " + number_text(*rate.value) + " gives way to \"" + peak_key +
             "\" " + number_text(*peak.value) + (implied ? " (its default)" : "") +
             ", as in DeepSpeed");
      }
    } else if (rate.value) {
      give(rate_key, "learning-rate", number_text(*rate.value));
    } else if (rate.absent() && !peak.is_auto && file_.has("optimizer")) {
      give(rate_key, "learning-rate", "0.001", true);
    }
  }

  // "none", "cpu" or "nvme", whose folder joins the disks.
  std::string offload_device(const std::string& section, const std::string& old_switch,
                             std::vector<std::string>& disks) {
    const std::string name = "zero_optimization." + section;
    if (file_.has_section(name)) {
      const std::string key = name + ".device";
      std::string device = file_.text(key).value_or("none");
      if (device != "none" && device != "cpu" && device != "nvme") {
        file_.refuse(key, "must be \"none\", \"cpu\" or \"nvme\"");
      }
      if (device != "nvme") return device;
      const std::string path_key = name + ".nvme_path";
      const std::string path = file_.text(path_key).value_or("");
      if (path.empty()) file_.refuse(path_key, "must name a folder on the disk");
      if (std::find(disks.begin(), disks.end(), path) == disks.end()) disks.push_back(path);
      return device;
    }
    const Setting<bool> old = file_.boolean("zero_optimization." + old_switch);
    return old.value.value_or(false) ? "cpu" : "none";
  }

  // Where state lives is planned from the budgets, and one process has nothing to partition.
  void map_offload() {
    if (!file_.has_section("zero_optimization")) return;
    const Setting<int64_t> stage = file_.whole("zero_optimization.stage", 0, 3);
    std::vector<std::string> disks;
    const std::string parameters = offload_device("offload_param", "cpu_offload_params", disks);
    const std::string optimizer = offload_device("offload_optimizer", "cpu_offload", disks);
    std::string found = "zero_optimization of stage " + number_text(stage.value.value_or(0));
    if (parameters != "none") found += ", parameters on " + parameters;
    if (optimizer != "none") found += ", optimizer on " + optimizer;
    std::string budgets = "--device-memory and --host-memory";
    if (!disks.empty()) {
      give("zero_optimization.offload_" + std::string(optimizer == "nvme" ? "optimizer" : "param") +
               ".nvme_path",
           "disk", fmt::format("{}", fmt::join(disks, ",")));
      budgets = "--device-memory, --host-memory and --disk-memory";
    }
    note(found + ": where they are follows from " + budgets + " here");
  }

  void list_the_rest() {
    std::string names;
    for (const std::string& name : file_.unread()) names += (names.empty() ? "" : ", ") + name;
    if (!names.empty()) note("without a meaning here: " + names);
  }

  Reader file_;
  const std::string& source_;
  const OptionValues& given_;
  DeepSpeedMapping mapping_;
};

// The value as its option writes it, so that 1e-4 and 0.0001 are one.
std::vector<std::string> normal_form(const Option& option, const std::vector<std::string>& texts) {
  TrainConfig scratch;
  option.set(scratch, texts);
  return option.get(scratch);
}

}  // namespace

DeepSpeedMapping map_deepspeed(std::string_view json, const std::string& source,
                               const OptionValues& given) {
  return Mapper(json, source, given).map();
}

OptionValues with_deepspeed_file(const OptionValues& given, const std::string& path,
                                 std::vector<std::string>& notes) {
  const DeepSpeedMapping mapping = map_deepspeed(read_text_file(path), path, given);
  OptionValues values = given;
  std::string conflicts;
  const auto disagree = [&](const MappedOption& mapped, const std::string& option,
                            const std::vector<std::string>& texts) {
    conflicts += (conflicts.empty() ? "" : ", ") + mapped.key + " (" + mapped.value +
                 ") against --" + option + " " + (texts.empty() ? "true" : texts.front());
  };
  for (const MappedOption& mapped : mapping.options) {
    const Option* option = find_option(train_options(), mapped.option);
    std::vector<std::string> normal;
    try {
      normal = normal_form(*option, {mapped.value});
    } catch (const Error& error) {
      throw Error(error.kind(), path + ": \"" + mapped.key + "\": " + error.what());
    }
    const auto found = given.find(mapped.option);
    if (mapped.option == "steps" && given.count("epochs") != 0) {
      disagree(mapped, "epochs", given.at("epochs"));
    } else if (found == given.end() || found->second == std::vector<std::string>{"auto"}) {
      values[mapped.option] = {mapped.value};
    } else if (!mapped.implied && normal_form(*option, found->second) != normal) {
      disagree(mapped, mapped.option, found->second);
    }
  }
  if (!conflicts.empty()) {
    throw Error(ErrorKind::kBadInput, path + " and the options disagree: " + conflicts +
                                          "; leave one out, or give \"auto\" in the file");
  }
  notes.insert(notes.end(), mapping.notes.begin(), mapping.notes.end());
  return values;
}

}  // namespace hetmem
