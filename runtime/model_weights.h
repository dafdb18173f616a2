// Weights in and out of model folders.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/model_config.h"
#include "io/safetensors.h"
#include "models/models.h"
#include "runtime/train_config.h"

namespace hetmem {

// A part of a tensor, elements in order: `count` of them from `first` on, written to `destination`.
using FloatSource = std::function<void(float* destination, int64_t first, int64_t count)>;
// Takes the next `count` elements of a tensor.
using FloatSink = std::function<void(const float* data, int64_t count)>;

// Gives each weight (by spec) to `write`, from the model folder, or as Hugging Face initialises
// (--from-scratch). Throws Error (kBadInput) naming file and tensor: missing, of another shape, or
// not finite.
void fill_weights(const ModelConfig& model, const TrainConfig& config,
                  const std::vector<WeightSpec>& specs,
                  const std::function<void(size_t index, const FloatSource& source)>& write);

// A weight of a model folder as fp32. Throws as fill_weights does, about values when it is read.
FloatSource weight_source(const SafetensorsReader& reader, const ModelConfig& model,
                          const WeightSpec& spec, const std::string& folder);

// Gives all elements of weight `index` to the sink.
using WeightReader = std::function<void(size_t index, const FloatSink& sink)>;

// Writes config.json, tokenizer files and model.safetensors, in the model's own names and dtype,
// into an existing folder. Weights are asked for in the order of `specs`.
void write_model_folder(const std::string& folder, const ModelConfig& model,
                        const std::string& source_folder, const std::vector<WeightSpec>& specs,
                        const WeightReader& read);

}  // namespace hetmem
