// Weights in and out of model folders.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/checksum.h"
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

// Writes config.json, tokenizer files and model.safetensors, in the model's own names and dtype,
// into an existing folder.
class ModelFolderWriter {
 public:
  ModelFolderWriter(const std::string& folder, const ModelConfig& model,
                    const std::string& source_folder, const std::vector<WeightSpec>& specs);
  // The next elements of the weights, which follow each other in the order of the specs.
  void append(const float* data, int64_t count);
  // What each file should hold.
  std::vector<FileSum> finish();

 private:
  DType dtype_;
  std::vector<FileSum> files_;
  SafetensorsWriter weights_;
};

}  // namespace hetmem
