// Checkpoints and final model folders: OUT/checkpoint-<step>/ and OUT/final/. A folder appears
// complete or not at all; optimizer.safetensors holds the moments and, where the model's dtype
// cannot hold it, the fp32 master of each weight; trainer_state.json the counts. Not thread-safe.
#pragma once

#include <string>

#include "runtime/trainer.h"

namespace hetmem {

// A clean model folder, loadable by from_pretrained.
void save_model(Trainer& trainer, const std::string& folder);
// The model folder and the training state.
void save_checkpoint(Trainer& trainer, const std::string& folder);
// Puts weights, moments and counts back. Throws Error (kBadInput, kStorage) naming the file.
void load_checkpoint(Trainer& trainer, const std::string& folder);
// What optimizer.safetensors calls the fp32 master of a weight.
std::string master_name(const std::string& weight);
// The step of the newest checkpoint-<step> under `out`, or -1.
int64_t newest_checkpoint(const std::string& out);
std::string checkpoint_path(const std::string& out, int64_t step);
// Removes all but the newest `keep` checkpoints (0: keeps all).
void prune_checkpoints(const std::string& out, int64_t keep);

}  // namespace hetmem
