// Checkpoints and final model folders: OUT/checkpoint-<step>/ and OUT/final/. A folder appears
// complete or not at all; optimizer.safetensors holds the moments and, where the model's dtype
// cannot hold it, the fp32 master of each weight; trainer_state.json the counts. CheckpointWriter
// writes them beside training. Not thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/token_dataset.h"
#include "runtime/trainer.h"

namespace hetmem {

// A clean model folder, loadable by from_pretrained.
void save_model(Trainer& trainer, const std::string& folder);

// What a run is trained on, and the step with which that began: it was not the run's first where
// other data came before.
struct DataPosition {
  DataIdentity identity;
  int64_t first = 0;
};

// What a checkpoint says beside its tensors, as it is at the step that is saved.
struct CheckpointHead {
  ModelConfig model;
  TrainConfig config;
  std::vector<StateTensor> state;
  int64_t steps_done = 0;
  int64_t optimizer_count = 0;
  int64_t sequences_per_step = 0;
  int64_t total_steps = 0;  // kNoEnd: not known
  std::optional<DataPosition> data;
};
CheckpointHead checkpoint_head(const Trainer& trainer, const DataPosition* data = nullptr);
// Gives all elements of a list of a tensor (by CheckpointHead::state), in order, to the sink.
using StateReader = std::function<void(ChunkList list, size_t tensor, const FloatSink& sink)>;
// The model folder and the training state; each list of each tensor is read once.
void write_checkpoint(const CheckpointHead& head, const StateReader& read,
                      const std::string& folder);
// The same of the state as it is, while nothing trains.
void save_checkpoint(Trainer& trainer, const std::string& folder,
                     const DataPosition* data = nullptr);

// A checkpoint that training goes on from, its step, the last step of its run and what that was
// trained on, where it says.
struct ResumedFrom {
  std::string folder;
  int64_t step = 0;
  std::optional<int64_t> total_steps;
  std::optional<DataPosition> data;
  // What the user is to know: a line for each option that results depend on and that was another
  // one.
  std::vector<std::string> notes;
};
// Puts weights, moments and counts back. Throws Error (kBadInput, kStorage, kCorrupt) naming the
// file; kBadInput, too, where the checkpoint was trained on other data than `data`.
ResumedFrom load_checkpoint(Trainer& trainer, const std::string& folder,
                            const DataIdentity* data = nullptr);
// Throws Error (kBadInput) where the checkpoint was trained on other data.
void require_same_data(const ResumedFrom& from, const DataIdentity& data);
// What optimizer.safetensors calls the fp32 master of a weight.
std::string master_name(const std::string& weight);
// For the message of what has failed: the last complete checkpoint under `out`, or that there is
// none.
std::string last_complete(const std::string& out);
// The step of the newest complete checkpoint-<step> under `out`, or -1.
int64_t newest_checkpoint(const std::string& out);
std::string checkpoint_path(const std::string& out, int64_t step);
// Whether it is the name of a folder of a checkpoint, one that was set aside among them.
bool is_checkpoint_name(const std::string& name);
// Gives checkpoints of later steps names that nothing takes for checkpoints of the run (a branch
// that training has left; nothing of it is removed), and returns those names. Throws Error
// (kStorage).
std::vector<std::string> set_aside_checkpoints(const std::string& out, int64_t newest_kept);
// Removes all but the one just written, of step `written`, and the newest of the others: `keep` in
// all (0: keeps all).
void prune_checkpoints(const std::string& out, int64_t keep, int64_t written);

}  // namespace hetmem
