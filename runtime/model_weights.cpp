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

void initialise(const WeightSpec& spec, uint64_t seed, uint64_t index, const TensorView& view) {
  auto* data = view.as<float>();
  const int64_t count = view.elements();
  switch (spec.initializer.kind) {
    case Initializer::Kind::kZeros:
      std::fill(data, data + count, 0.0F);
      return;
    case Initializer::Kind::kOnes:
      std::fill(data, data + count, 1.0F);
      return;
    case Initializer::Kind::kNormal:
      for (int64_t i = 0; i < count; i += 2) {
        const auto pair =
            normal_pair(seed, kInitializerStream + index, static_cast<uint64_t>(i / 2));
        data[i] = static_cast<float>(pair[0] * spec.initializer.standard_deviation);
        if (i + 1 < count) {
          data[i + 1] = static_cast<float>(pair[1] * spec.initializer.standard_deviation);
        }
      }
      return;
  }
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

void append_tensor(SafetensorsWriter& writer, const TensorView& view, DType dtype) {
  const auto* data = view.as<float>();
  const int64_t count = view.elements();
  if (dtype == DType::kFloat32) return writer.append(data, count * 4);
  constexpr int64_t kPiece = 65536;
  std::vector<uint16_t> piece(kPiece);
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t now = std::min(kPiece, count - first);
    for (int64_t i = 0; i < now; ++i) {
      piece[static_cast<size_t>(i)] = dtype == DType::kBFloat16 ? bf16_from_float(data[first + i])
                                                                : fp16_from_float(data[first + i]);
    }
    writer.append(piece.data(), now * 2);
  }
}

}  // namespace

void read_weight(const SafetensorsReader& reader, const ModelConfig& model, const WeightSpec& spec,
                 const std::string& folder, const TensorView& view) {
  const std::string name = find_name(reader, model, spec.name, folder);
  if (!(reader.info(name).shape == spec.shape)) {
    throw Error(ErrorKind::kBadInput, reader.file_of(name) + ": tensor \"" + name + "\" is " +
                                          reader.info(name).shape.to_string() +
                                          ", config.json asks for " + spec.shape.to_string());
  }
  auto* data = view.as<float>();
  reader.read_as_float(name, data);
  const bool finite =
      std::all_of(data, data + view.elements(), [](float value) { return std::isfinite(value); });
  if (!finite) {
    throw Error(ErrorKind::kBadInput,
                reader.file_of(name) + ": tensor \"" + name + "\" holds NaN or infinite values");
  }
}

void fill_weights(const ModelConfig& model, const TrainConfig& config,
                  const std::vector<WeightSpec>& specs, const std::vector<TensorView>& views) {
  if (config.from_scratch) {
    for (size_t i = 0; i < specs.size(); ++i) initialise(specs[i], config.seed, i, views[i]);
    return;
  }
  const SafetensorsReader reader(config.model);
  for (size_t i = 0; i < specs.size(); ++i) {
    read_weight(reader, model, specs[i], config.model, views[i]);
  }
}

void write_model_folder(const std::string& folder, const ModelConfig& model,
                        const std::string& source_folder, const std::vector<WeightSpec>& specs,
                        const WeightSource& weights) {
  write_text_file(folder + "/config.json", model.json);
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(source_folder, code)) {
    const std::string name = entry.path().filename().string();
    if (!is_tokenizer_file(name)) continue;
    fs::copy_file(entry.path(), folder + "/" + name, fs::copy_options::overwrite_existing, code);
    if (code) {
      throw Error(ErrorKind::kStorage,
                  "cannot copy " + entry.path().string() + " to " + folder + ": " + code.message());
    }
  }
  std::vector<NamedTensorInfo> tensors;
  for (const WeightSpec& spec : specs) tensors.push_back({spec.name, model.dtype, spec.shape});
  SafetensorsWriter writer(folder + "/model.safetensors", tensors);
  for (size_t i = 0; i < specs.size(); ++i) append_tensor(writer, weights(i), model.dtype);
  writer.finish();
}

}  // namespace hetmem
