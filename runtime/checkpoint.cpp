#include "runtime/checkpoint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include "core/error.h"
#include "core/fault_plan.h"
#include "io/file.h"
#include "io/json.h"
#include "io/manifest.h"
#include "io/safetensors.h"
#include "models/models.h"
#include "runtime/model_weights.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "checkpoint-";

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

// What optimizer.safetensors holds, in its order.
std::vector<StoredTensor> optimizer_tensors(const Trainer& trainer) {
  std::vector<StoredTensor> tensors;
  const std::vector<StateTensor> state = trainer.state();
  for (size_t i = 0; i < state.size(); ++i) {
    const auto add = [&](const std::string& name, ChunkList list) {
      tensors.push_back({{name, DType::kFloat32, state[i].shape}, list, i});
    };
    if (trainer.model().dtype != DType::kFloat32) {
      add(master_name(state[i].name), ChunkList::kWeights);
    }
    constexpr std::array kMoments{ChunkList::kFirstMoment, ChunkList::kSecondMoment};
    for (size_t which = 0; which < static_cast<size_t>(state[i].moments); ++which) {
      add(moment_name(trainer.config(), which, state[i].name), kMoments.at(which));
    }
  }
  return tensors;
}

void write_model(Trainer& trainer, const std::string& folder) {
  write_model_folder(
      folder, trainer.model(), trainer.config().model, weight_specs(trainer.model()),
      [&](size_t index, const FloatSink& sink) { trainer.read(ChunkList::kWeights, index, sink); });
}

void write_optimizer(Trainer& trainer, const std::string& path) {
  const std::vector<StoredTensor> tensors = optimizer_tensors(trainer);
  std::vector<NamedTensorInfo> infos;
  for (const StoredTensor& tensor : tensors) infos.push_back(tensor.info);
  SafetensorsWriter writer(path, infos);
  for (const StoredTensor& tensor : tensors) {
    trainer.read(tensor.list, tensor.index, [&](const float* data, int64_t count) {
      writer.append(data, count * static_cast<int64_t>(sizeof(float)));
    });
  }
  writer.finish();
}

void read_tensor(Trainer& trainer, const SafetensorsReader& reader, const StoredTensor& tensor,
                 const std::string& folder) {
  const std::string& name = tensor.info.name;
  if (!reader.contains(name) || !(reader.info(name).shape == tensor.info.shape)) {
    throw Error(ErrorKind::kBadInput, folder + ": \"" + name +
                                          "\" is missing or of another shape; was the checkpoint "
                                          "written with another model, optimizer or --freeze?");
  }
  trainer.write(tensor.list, tensor.index, [&](float* to, int64_t first, int64_t count) {
    reader.read_as_float(name, first, count, to);
  });
}

int64_t step_of(const std::string& name) {
  const std::string prefix = kPrefix;
  int64_t step = -1;
  if (name.rfind(prefix, 0) != 0) return -1;
  const auto [end, code] =
      std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
  return code == std::errc() && end == name.data() + name.size() ? step : -1;
}

std::vector<int64_t> checkpoint_steps(const std::string& out) {
  std::vector<int64_t> steps;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(out, code)) {
    const int64_t step = step_of(entry.path().filename().string());
    if (step >= 0 && entry.is_directory()) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace

std::string master_name(const std::string& weight) { return "master." + weight; }

void save_model(Trainer& trainer, const std::string& folder) {
  AtomicDirectory directory(folder);
  write_model(trainer, directory.path());
  write_manifest(directory.path());
  directory.commit();
}

void save_checkpoint(Trainer& trainer, const std::string& folder) {
  AtomicDirectory directory(folder);
  kill_point(FaultSite::kCheckpointBegin);
  write_model(trainer, directory.path());
  kill_point(FaultSite::kCheckpointModel);
  write_optimizer(trainer, directory.path() + "/optimizer.safetensors");
  kill_point(FaultSite::kCheckpointOptimizer);
  Json state;
  state["step"] = trainer.steps_done();
  state["optimizer_count"] = trainer.optimizer_count();
  // Windows and dropout are drawn by counters: where they stand follows from the step alone.
  state["sampler"] = {{"shuffle", trainer.config().shuffle},
                      {"seed", trainer.config().seed},
                      {"next_window", trainer.steps_done() * trainer.sequences_per_step()}};
  state["rng"] = {{"generator", "philox4x32-10"}, {"seed", trainer.config().seed}};
  state["configuration"] = to_yaml(trainer.config());
  write_text_file(directory.path() + "/trainer_state.json", state.dump(2) + "\n");
  kill_point(FaultSite::kCheckpointState);
  write_manifest(directory.path());
  kill_point(FaultSite::kCheckpointManifest);
  directory.commit();
}

void load_checkpoint(Trainer& trainer, const std::string& folder) {
  verify_manifest(folder);
  const std::string state_path = folder + "/trainer_state.json";
  const Json state = read_json_file(state_path);
  for (const char* key : {"step", "optimizer_count"}) {
    if (!state.is_object() || !state.contains(key) || !state[key].is_number_unsigned()) {
      throw Error(ErrorKind::kBadInput,
                  state_path + ": \"" + key + "\" is missing or no whole number");
    }
  }
  const SafetensorsReader optimizer(folder + "/optimizer.safetensors");
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
  trainer.restore_counts(state["step"].get<int64_t>(), state["optimizer_count"].get<int64_t>());
}

int64_t newest_checkpoint(const std::string& out) {
  const std::vector<int64_t> steps = checkpoint_steps(out);
  return steps.empty() ? -1 : steps.back();
}

std::string checkpoint_path(const std::string& out, int64_t step) {
  return out + "/" + kPrefix + std::to_string(step);
}

void prune_checkpoints(const std::string& out, int64_t keep) {
  const std::vector<int64_t> steps = checkpoint_steps(out);
  if (keep == 0) return;
  for (size_t i = 0; i + static_cast<size_t>(keep) < steps.size(); ++i) {
    AtomicDirectory::remove(checkpoint_path(out, steps[i]));
    kill_point(FaultSite::kCheckpointPruned);
  }
}

}  // namespace hetmem
