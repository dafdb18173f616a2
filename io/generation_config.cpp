#include "io/generation_config.h"

#include <filesystem>

#include "core/error.h"
#include "io/json.h"

namespace hetmem {
namespace {

bool has(const Json& json, const char* key) { return json.contains(key) && !json[key].is_null(); }

std::vector<int64_t> token_ids(const Json& json, const char* key, const std::string& source) {
  std::vector<int64_t> ids;
  if (!has(json, key)) return ids;
  const Json& value = json[key];
  for (const Json& id : value.is_array() ? value : Json::array({value})) {
    if (!id.is_number_integer()) {
      throw Error(ErrorKind::kBadInput,
                  source + ": " + key + " must be a token id or a list of them");
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

void read_keys(const Json& json, const std::string& source, GenerationConfig& config) {
  const std::vector<int64_t> eos = token_ids(json, "eos_token_id", source);
  if (!eos.empty()) config.eos_token_ids = eos;
  const std::vector<int64_t> bos = token_ids(json, "bos_token_id", source);
  if (!bos.empty()) config.bos_token_id = bos.front();
  if (!has(json, "repetition_penalty")) return;
  const Json& penalty = json["repetition_penalty"];
  if (!penalty.is_number() || !(penalty.get<double>() > 0)) {
    throw Error(ErrorKind::kBadInput, source + ": repetition_penalty must be a number above 0");
  }
  config.repetition_penalty = penalty.get<double>();
}

}  // namespace

GenerationConfig load_generation_config(const std::string& directory, const ModelConfig& model) {
  GenerationConfig config;
  const std::string model_path = directory + "/config.json";
  read_keys(parse_json(model.json, model_path), model_path, config);
  const std::string path = directory + "/generation_config.json";
  std::error_code code;
  if (!std::filesystem::exists(path, code)) return config;
  const Json json = read_json_file(path);
  if (!json.is_object()) throw Error(ErrorKind::kBadInput, path + " is not a JSON object");
  read_keys(json, path, config);
  return config;
}

}  // namespace hetmem
