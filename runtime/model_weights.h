// Weights in and out of model folders.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/tensor_view.h"
#include "io/model_config.h"
#include "io/safetensors.h"
#include "models/models.h"
#include "runtime/train_config.h"

namespace hetmem {

// Fills the views (fp32, by spec) from the model folder, or as Hugging Face initialises
// (--from-scratch). Throws Error (kBadInput) naming file and tensor: missing, of another shape, or
// not finite.
void fill_weights(const ModelConfig& model, const TrainConfig& config,
                  const std::vector<WeightSpec>& specs, const std::vector<TensorView>& views);

// One weight of a model folder as fp32. Throws as fill_weights does.
void read_weight(const SafetensorsReader& reader, const ModelConfig& model, const WeightSpec& spec,
                 const std::string& folder, const TensorView& view);

// The elements of weight `index` (fp32), valid until the next call.
using WeightSource = std::function<TensorView(size_t index)>;

// Writes config.json, tokenizer files and model.safetensors, in the model's own names and dtype,
// into an existing folder. Weights are asked for in the order of `specs`.
void write_model_folder(const std::string& folder, const ModelConfig& model,
                        const std::string& source_folder, const std::vector<WeightSpec>& specs,
                        const WeightSource& weights);

}  // namespace hetmem
