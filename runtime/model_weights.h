// Weights in and out of model folders.
#pragma once

#include <string>
#include <vector>

#include "core/tensor_view.h"
#include "io/model_config.h"
#include "models/models.h"
#include "runtime/train_config.h"

namespace hetmem {

// Fills the views (fp32, by spec) from the model folder, or as Hugging Face initialises
// (--from-scratch). Throws Error (kBadInput) naming file and tensor: missing, of another shape, or
// not finite.
void fill_weights(const ModelConfig& model, const TrainConfig& config,
                  const std::vector<WeightSpec>& specs, const std::vector<TensorView>& views);

// Writes config.json, tokenizer files and model.safetensors, in the model's own names and dtype,
// into an existing folder.
void write_model_folder(const std::string& folder, const ModelConfig& model,
                        const std::string& source_folder, const std::vector<WeightSpec>& specs,
                        const std::vector<TensorView>& views);

}  // namespace hetmem
