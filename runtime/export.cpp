#include "runtime/export.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "io/file.h"
#include "io/json.h"
#include "io/manifest.h"
#include "io/safetensors.h"
#include "models/models.h"
#include "runtime/checkpoint.h"
#include "runtime/model_weights.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

void check_out(const std::string& out) {
  std::error_code code;
  if (!fs::exists(out, code)) return;
  if (!fs::is_directory(out, code)) {
    throw Error(ErrorKind::kBadInput, "--out " + out + " is not a folder");
  }
  if (!fs::is_empty(out, code)) {
    throw Error(ErrorKind::kBadInput, "--out " + out + " is not empty; choose another folder");
  }
}

// The configuration with its dtype changed, under the key that it has ("dtype" since transformers
// 5, before that "torch_dtype"); the rest of the file stays.
ModelConfig with_dtype(ModelConfig model, DType dtype) {
  Json json = parse_json(model.json, "config.json");
  const std::string name(name_of(dtype));
  if (!json.contains("dtype") && !json.contains("torch_dtype")) json["torch_dtype"] = name;
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (json.contains(key)) json[key] = name;
  }
  model.dtype = dtype;
  model.json = json.dump(2) + "\n";
  return model;
}

// The weights of a folder, one after the other, from the masters where there are any.
class FolderWeights {
 public:
  FolderWeights(const ModelConfig& model, const std::string& folder, DType dtype)
      : model_(model),
        folder_(folder),
        dtype_(dtype),
        specs_(weight_specs(model)),
        weights_(folder) {
    const std::string optimizer = folder + "/optimizer.safetensors";
    std::error_code code;
    if (fs::exists(optimizer, code)) masters_.emplace(optimizer);
  }

  const std::vector<WeightSpec>& specs() const { return specs_; }

  void operator()(size_t index, const FloatSink& sink) {
    const WeightSpec& spec = specs_[index];
    data_.resize(static_cast<size_t>(spec.shape.elements()));
    WeightSpec stored = spec;
    stored.name = master_name(spec.name);
    const bool has_master = masters_ && masters_->contains(stored.name);
    weight_source(has_master ? *masters_ : weights_, model_, has_master ? stored : spec, folder_)(
        data_.data(), 0, spec.shape.elements());
    if (dtype_ == DType::kFloat16) check_range(spec.name);
    sink(data_.data(), spec.shape.elements());
  }

 private:
  void check_range(const std::string& name) const {
    constexpr float kInfinity = 65520.0F;  // what rounds to infinity, and above
    const auto found = std::find_if(data_.begin(), data_.end(),
                                    [](float value) { return std::abs(value) >= kInfinity; });
    if (found == data_.end()) return;
    throw Error(ErrorKind::kBadInput, folder_ + ": \"" + name + "\" holds " +
                                          std::to_string(*found) +
                                          ", which float16 cannot; choose --dtype bf16 or fp32");
  }

  const ModelConfig& model_;
  const std::string folder_;
  const DType dtype_;
  const std::vector<WeightSpec> specs_;
  const SafetensorsReader weights_;
  std::optional<SafetensorsReader> masters_;
  std::vector<float> data_;
};

}  // namespace

void export_model(const std::string& source, const std::string& out, std::optional<DType> dtype) {
  check_out(out);
  if (has_manifest(source)) verify_manifest(source);
  const ModelConfig model = load_model_config(source);
  const ModelConfig changed = dtype ? with_dtype(model, *dtype) : model;
  FolderWeights weights(model, source, changed.dtype);
  AtomicDirectory directory(out);
  ModelFolderWriter writer(directory.path(), changed, source, weights.specs());
  for (size_t i = 0; i < weights.specs().size(); ++i) {
    weights(i, [&](const float* data, int64_t count) { writer.append(data, count); });
  }
  writer.finish();
  directory.commit();
}

}  // namespace hetmem
