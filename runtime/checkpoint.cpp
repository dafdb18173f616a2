#include "runtime/checkpoint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/fault_plan.h"
#include "io/file.h"
#include "io/json.h"
#include "io/manifest.h"
#include "io/safetensors.h"
#include "models/models.h"
#include "runtime/schedule.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kAbandoned = ".abandoned";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "trainer_state.json";

std::string moment_name(const TrainConfig& config, size_t which, const std::string& weight) {
  if (config.optimizer == OptimizerKind::kSgd) return "momentum_buffer." + weight;
  return (which == 0 ? "exp_avg." : "exp_avg_sq.") + weight;
}

// A tensor of the training state by the name that a file has for it.
struct StoredTensor {
  NamedTensorInfo info;
  ChunkList list = ChunkList::kWeights;
  size_t index = 0;
};

// What optimizer.safetensors holds, in its order: tensor by tensor, masters before moments.
std::vector<StoredTensor> optimizer_tensors(const ModelConfig& model, const TrainConfig& config,
                                            const std::vector<StateTensor>& state) {
  std::vector<StoredTensor> tensors;
  for (size_t i = 0; i < state.size(); ++i) {
    if (model.dtype != DType::kFloat32) {
      const NamedTensorInfo master{master_name(state[i].name), DType::kFloat32, state[i].shape};
      tensors.push_back({master, ChunkList::kWeights, i});
    }
    constexpr std::array kMoments{ChunkList::kFirstMoment, ChunkList::kSecondMoment};
    const DType moments = moments_of(config.optimizer).dtype;
    const Shape records{moment_blocks(state[i].shape.elements()), kMomentRecordBytes};
    const Shape& shape = moments == DType::kUint8 ? records : state[i].shape;
    for (size_t which = 0; which < static_cast<size_t>(state[i].moments); ++which) {
      const std::string name = moment_name(config, which, state[i].name);
      tensors.push_back({{name, moments, shape}, kMoments.at(which), i});
    }
  }
  return tensors;
}

std::vector<StoredTensor> optimizer_tensors(const Trainer& trainer) {
  return optimizer_tensors(trainer.model(), trainer.config(), trainer.state());
}

SafetensorsWriter optimizer_writer(const CheckpointHead& head, const std::string& path) {
  std::vector<NamedTensorInfo> infos;
  for (const StoredTensor& tensor : optimizer_tensors(head.model, head.config, head.state)) {
    infos.push_back(tensor.info);
  }
  return {path, infos};
}

// Both files grow tensor by tensor, so that every list of every tensor is read once.
std::vector<FileSum> write_tensors(const CheckpointHead& head, const StateReader& read,
                                   const std::string& folder) {
  const bool keeps_masters = head.model.dtype != DType::kFloat32;
  ModelFolderWriter model(folder, head.model, head.config.model, weight_specs(head.model));
  SafetensorsWriter optimizer = optimizer_writer(head, folder + "/" + kOptimizerFile);
  const auto append = [&](const float* data, int64_t count) {
    optimizer.append(data, count * static_cast<int64_t>(sizeof(float)));
  };
  for (size_t i = 0; i < head.state.size(); ++i) {
    read(ChunkList::kWeights, i, [&](const float* data, int64_t count) {
      model.append(data, count);
      if (keeps_masters) append(data, count);
    });
    const int moments = head.state[i].moments;
    if (moments > 0) read(ChunkList::kFirstMoment, i, append);
    if (moments > 1) read(ChunkList::kSecondMoment, i, append);
    kill_point(FaultSite::kCheckpointTensor);
  }
  std::vector<FileSum> files = model.finish();
  files.push_back(optimizer.finish());
  return files;
}

Json state_json(const CheckpointHead& head) {
  Json state;
  state["step"] = head.steps_done;
  state["optimizer_count"] = head.optimizer_count;
  if (head.total_steps != kNoEnd) state["total_steps"] = head.total_steps;
  // Windows and dropout are drawn by counters: where they stand follows from the step, and from
  // that with which the data began.
  const int64_t first = head.data ? head.data->first : 0;
  state["sampler"] = {{"shuffle", head.config.shuffle},
                      {"seed", head.config.seed},
                      {"next_window", (head.steps_done - first) * head.sequences_per_step}};
  state["rng"] = {{"generator", "philox4x32-10"}, {"seed", head.config.seed}};
  if (head.data) {
    state["data"] = {{"tokens", head.data->identity.tokens},
                     {"xxh3_128", head.data->identity.sum},
                     {"first_step", first}};
  }
  state["configuration"] = to_yaml(head.config);
  return state;
}

int64_t count_of(const Json& object, const char* key, const std::string& path) {
  const bool whole = object.is_object() && object.contains(key) && object[key].is_number_unsigned();
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (whole && object[key].get<uint64_t>() <= kMost) return object[key].get<int64_t>();
  throw Error(ErrorKind::kBadInput, path + ": \"" + key +
                                        "\" is missing or no whole number below 2^63; use another "
                                        "checkpoint");
}

std::optional<DataPosition> data_of(const Json& state, int64_t step, const std::string& path) {
  if (!state.contains("data")) return std::nullopt;  // it was trained step by step
  const Json& data = state["data"];
  const int64_t tokens = count_of(data, "tokens", path);
  if (!data.contains("xxh3_128") || !data["xxh3_128"].is_string()) {
    throw Error(ErrorKind::kBadInput, path + ": \"data\" does not say what data it was");
  }
  const int64_t first = data.contains("first_step") ? count_of(data, "first_step", path) : 0;
  if (first > step) {
    throw Error(ErrorKind::kBadInput,
                path + ": \"first_step\" is after \"step\"; use another checkpoint");
  }
  return DataPosition{{tokens, data["xxh3_128"].get<std::string>()}, first};
}

void read_tensor(Trainer& trainer, const SafetensorsReader& reader, const StoredTensor& tensor,
                 const std::string& folder) {
  const std::string& name = tensor.info.name;
  const bool records = tensor.info.dtype == DType::kUint8;
  if (!reader.contains(name) || !(reader.info(name).shape == tensor.info.shape) ||
      (records && reader.info(name).dtype != tensor.info.dtype)) {
    throw Error(ErrorKind::kBadInput, folder + ": \"" + name +
                                          "\" is missing or of another shape; was the checkpoint "
                                          "written with another model, optimizer or --freeze?");
  }
  trainer.write(tensor.list, tensor.index, [&](float* to, int64_t first, int64_t count) {
    if (records) {  // word by word
      constexpr int64_t kWord = sizeof(float);
      reader.read(name, first * kWord, count * kWord, to);
    } else {
      reader.read_as_float(name, first, count, to);
    }
  });
}

bool rate_depends_on_length(const TrainConfig& config) {
  switch (config.lr_scheduler_type) {
    case ScheduleKind::kConstant:
      return false;
    case ScheduleKind::kConstantWithWarmup:
      return config.warmup_steps > 0 && config.warmup_steps < 1;
    default:
      return true;
  }
}

// The options with which the checkpoint goes on beside those that it was written with.
std::vector<std::string> notes_on(const Trainer& trainer, const Json& state,
                                  const ResumedFrom& from) {
  if (!state.contains("configuration") || !state["configuration"].is_string()) return {};
  std::optional<TrainConfig> before = config_of_yaml(state["configuration"].get<std::string>());
  if (!before) return {};
  TrainConfig now = trainer.config();
  now.sequence_length = trainer.sequence_length();
  if (before->sequence_length == 0) {
    before->sequence_length = resolved_sequence_length(*before, trainer.model());
  }
  if (before->compute_dtype == "auto") before->compute_dtype = now.compute_dtype;
  std::vector<std::string> notes = changed_options(now, *before);
  if (now.steps && *now.steps > from.step && from.total_steps && *from.total_steps != *now.steps &&
      rate_depends_on_length(now)) {
    notes.push_back("--steps is " + std::to_string(*now.steps) +
                    "; the checkpoint was written with " + std::to_string(*from.total_steps));
  }
  return notes;
}

int64_t step_of(const std::string& name) {
  const std::string prefix = kPrefix;
  int64_t step = -1;
  if (name.rfind(prefix, 0) != 0) return -1;
  const auto [end, code] =
      std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
  return code == std::errc() && end == name.data() + name.size() ? step : -1;
}

// Of those that are complete.
std::vector<int64_t> checkpoint_steps(const std::string& out) {
  std::vector<int64_t> steps;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(out, code)) {
    const int64_t step = step_of(entry.path().filename().string());
    if (step >= 0 && has_manifest(entry.path().string())) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace

std::string master_name(const std::string& weight) { return "master." + weight; }

void save_model(Trainer& trainer, const std::string& folder) {
  AtomicDirectory directory(folder);
  const std::vector<WeightSpec> specs = weight_specs(trainer.model());
  ModelFolderWriter writer(directory.path(), trainer.model(), trainer.config().model, specs);
  for (size_t i = 0; i < specs.size(); ++i) {
    trainer.read(ChunkList::kWeights, i,
                 [&](const float* data, int64_t count) { writer.append(data, count); });
  }
  write_manifest(directory.path(), writer.finish());
  directory.commit();
}

CheckpointHead checkpoint_head(const Trainer& trainer, const DataPosition* data) {
  CheckpointHead head{trainer.model(),           trainer.config(),
                      trainer.state(),           trainer.steps_done(),
                      trainer.optimizer_count(), trainer.sequences_per_step(),
                      trainer.total_steps(),     {}};
  if (data != nullptr) head.data = *data;
  return head;
}

void write_checkpoint(const CheckpointHead& head, const StateReader& read,
                      const std::string& folder) {
  AtomicDirectory directory(folder);
  kill_point(FaultSite::kCheckpointBegin);
  std::vector<FileSum> files = write_tensors(head, read, directory.path());
  kill_point(FaultSite::kCheckpointTensors);
  files.push_back(write_summed_file(directory.path(), kStateFile, state_json(head).dump(2) + "\n"));
  kill_point(FaultSite::kCheckpointState);
  write_manifest(directory.path(), files);
  kill_point(FaultSite::kCheckpointManifest);
  directory.commit();
}

void save_checkpoint(Trainer& trainer, const std::string& folder, const DataPosition* data) {
  write_checkpoint(
      checkpoint_head(trainer, data),
      [&](ChunkList list, size_t tensor, const FloatSink& sink) {
        trainer.read(list, tensor, sink);
      },
      folder);
}

// A run that goes on with other data would go on as if nothing had happened.
void require_same_data(const ResumedFrom& from, const DataIdentity& data) {
  if (!from.data || from.data->identity == data) return;
  const int64_t tokens = from.data->identity.tokens;
  const std::string difference =
      tokens == data.tokens
          ? "both have " + std::to_string(tokens) + " tokens, but their contents differ"
          : std::to_string(data.tokens) + " tokens, not " + std::to_string(tokens);
  throw Error(ErrorKind::kBadInput,
              "--data is not what " + from.folder + " was trained on (" + difference +
                  "); give the same data, or begin a new run with --model " + from.folder);
}

ResumedFrom load_checkpoint(Trainer& trainer, const std::string& folder, const DataIdentity* data) {
  verify_manifest(folder);
  const std::string state_path = folder + "/" + kStateFile;
  const Json state = read_json_file(state_path);
  const int64_t step = count_of(state, "step", state_path);
  const int64_t optimizer_count = count_of(state, "optimizer_count", state_path);
  ResumedFrom from{folder, step, std::nullopt, data_of(state, step, state_path), {}};
  if (state.contains("total_steps")) from.total_steps = count_of(state, "total_steps", state_path);
  if (data != nullptr) require_same_data(from, *data);
  const SafetensorsReader optimizer(folder + "/" + kOptimizerFile);
  for (const StoredTensor& tensor : optimizer_tensors(trainer)) {
    read_tensor(trainer, optimizer, tensor, folder);
  }
  if (trainer.model().dtype == DType::kFloat32) {
    const SafetensorsReader weights(folder);
    const std::vector<StateTensor> tensors = trainer.state();
    for (size_t i = 0; i < tensors.size(); ++i) {
      const NamedTensorInfo info{tensors[i].name, DType::kFloat32, tensors[i].shape};
      read_tensor(trainer, weights, {info, ChunkList::kWeights, i}, folder);
    }
  }
  trainer.restore_counts(step, optimizer_count);
  from.notes = notes_on(trainer, state, from);
  return from;
}

int64_t newest_checkpoint(const std::string& out) {
  const std::vector<int64_t> steps = checkpoint_steps(out);
  return steps.empty() ? -1 : steps.back();
}

std::string last_complete(const std::string& out) {
  const int64_t step = newest_checkpoint(out);
  return step < 0 ? "there is no complete checkpoint"
                  : "the last complete checkpoint is " + checkpoint_path(out, step);
}

std::string checkpoint_path(const std::string& out, int64_t step) {
  return out + "/" + kPrefix + std::to_string(step);
}

bool is_checkpoint_name(const std::string& name) {
  const size_t aside = name.find(kAbandoned);
  return step_of(name.substr(0, aside)) >= 0;
}

std::vector<std::string> set_aside_checkpoints(const std::string& out, int64_t newest_kept) {
  std::vector<std::string> names;
  std::vector<int64_t> steps = checkpoint_steps(out);
  // The newest first: a run that is cut off here leaves the older part of one branch.
  while (!steps.empty() && steps.back() > newest_kept) {
    const std::string path = checkpoint_path(out, steps.back());
    std::string name = path + kAbandoned;
    for (int i = 2; !AtomicDirectory::rename(path, name); ++i) {
      name = path + kAbandoned + "-" + std::to_string(i);
    }
    names.push_back(name);
    steps.pop_back();
  }
  return names;
}

void prune_checkpoints(const std::string& out, int64_t keep, int64_t written) {
  std::vector<int64_t> steps = checkpoint_steps(out);
  if (keep == 0) return;
  // A run that was resumed from an older one may have written what is not the newest.
  steps.erase(std::remove(steps.begin(), steps.end(), written), steps.end());
  for (size_t i = 0; i + static_cast<size_t>(keep) <= steps.size(); ++i) {
    AtomicDirectory::remove(checkpoint_path(out, steps[i]));
    kill_point(FaultSite::kCheckpointPruned);
  }
}

}  // namespace hetmem
