#include "runtime/model_weights.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/philox.h"
#include "io/file.h"
#include "io/safetensors.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

// The stream of the generator that initialises weight `index`.
constexpr uint64_t kInitializerStream = uint64_t{1} << 32;

FloatSource initial_values(const WeightSpec& spec, uint64_t seed, uint64_t index) {
  switch (spec.initializer.kind) {
    case Initializer::Kind::kZeros:
      return [](float* to, int64_t, int64_t count) { std::fill(to, to + count, 0.0F); };
    case Initializer::Kind::kOnes:
      return [](float* to, int64_t, int64_t count) { std::fill(to, to + count, 1.0F); };
    case Initializer::Kind::kNormal:
      break;
  }
  return [=, deviation = spec.initializer.standard_deviation](float* to, int64_t first,
                                                              int64_t count) {
    for (int64_t i = 0; i < count; ++i) {  // element e is one of pair e / 2
      const auto element = static_cast<uint64_t>(first + i);
      const auto pair = normal_pair(seed, kInitializerStream + index, element / 2);
      to[i] = static_cast<float>(pair[element % 2] * deviation);
      if (element % 2 == 0 && i + 1 < count) {
        to[++i] = static_cast<float>(pair[1] * deviation);
      }
    }
  };
}

std::string find_name(const SafetensorsReader& reader, const ModelConfig& model,
                      const std::string& weight, const std::string& folder) {
  for (const std::string& name : names_in_folder(model, weight)) {
    if (reader.contains(name)) return name;
  }
  throw Error(ErrorKind::kBadInput,
              folder + ": the weights hold no tensor \"" + weight + "\" that config.json asks for");
}

bool is_tokenizer_file(const std::string& name) {
  static const std::vector<std::string> names{
      "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
      "merges.txt",     "added_tokens.json",     "generation_config.json",  "chat_template.jinja",
      "tokenizer.model"};
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<NamedTensorInfo> tensors_of(const ModelConfig& model,
                                        const std::vector<WeightSpec>& specs) {
  std::vector<NamedTensorInfo> tensors;
  for (const WeightSpec& spec : specs) tensors.push_back({spec.name, model.dtype, spec.shape});
  return tensors;
}

}  // namespace

FloatSource weight_source(const SafetensorsReader& reader, const ModelConfig& model,
                          const WeightSpec& spec, const std::string& folder) {
  const std::string name = find_name(reader, model, spec.name, folder);
  if (!(reader.info(name).shape == spec.shape)) {
    throw Error(ErrorKind::kBadInput, reader.file_of(name) + ": tensor \"" + name + "\" is " +
                                          reader.info(name).shape.to_string() +
                                          ", config.json asks for " + spec.shape.to_string());
  }
  return [&reader, name](float* to, int64_t first, int64_t count) {
    reader.read_as_float(name, first, count, to);
    if (std::all_of(to, to + count, [](float value) { return std::isfinite(value); })) return;
    throw Error(ErrorKind::kBadInput,
                reader.file_of(name) + ": tensor \"" + name + "\" holds NaN or infinite values");
  };
}

void fill_weights(const ModelConfig& model, const TrainConfig& config,
                  const std::vector<WeightSpec>& specs,
                  const std::function<void(size_t index, const FloatSource& source)>& write) {
  if (config.from_scratch) {
    for (size_t i = 0; i < specs.size(); ++i) write(i, initial_values(specs[i], config.seed, i));
    return;
  }
  const SafetensorsReader reader(config.model);
  for (size_t i = 0; i < specs.size(); ++i) {
    write(i, weight_source(reader, model, specs[i], config.model));
  }
}

ModelFolderWriter::ModelFolderWriter(const std::string& folder, const ModelConfig& model,
                                     const std::string& source_folder,
                                     const std::vector<WeightSpec>& specs)
    : dtype_(model.dtype), weights_(folder + "/model.safetensors", tensors_of(model, specs)) {
  files_.push_back(write_summed_file(folder, "config.json", model.json));
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(source_folder, code)) {
    const std::string name = entry.path().filename().string();
    if (!is_tokenizer_file(name)) continue;
    files_.push_back(write_summed_file(folder, name, read_text_file(entry.path().string())));
  }
}

void ModelFolderWriter::append(const float* data, int64_t count) {
  if (dtype_ == DType::kFloat32) return weights_.append(data, count * 4);
  constexpr int64_t kPiece = 65536;
  std::vector<uint16_t> piece(kPiece);
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t now = std::min(kPiece, count - first);
    for (int64_t i = 0; i < now; ++i) {
      piece[static_cast<size_t>(i)] = dtype_ == DType::kBFloat16 ? bf16_from_float(data[first + i])
                                                                 : fp16_from_float(data[first + i]);
    }
    weights_.append(piece.data(), now * 2);
  }
}

std::vector<FileSum> ModelFolderWriter::finish() {
  files_.push_back(weights_.finish());
  return std::move(files_);
}

}  // namespace hetmem
