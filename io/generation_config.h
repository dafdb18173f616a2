// GenerationConfig: what a model folder says about generating text, from generation_config.json
// and, where that is silent, config.json. A value; reading is thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/model_config.h"

namespace hetmem {

struct GenerationConfig {
  std::vector<int64_t> eos_token_ids;   // generation stops after any of them
  std::optional<int64_t> bos_token_id;  // what an empty prompt begins with
  double repetition_penalty = 1;
};

// Throws Error (kBadInput) that names the file and the key.
GenerationConfig load_generation_config(const std::string& directory, const ModelConfig& model);

}  // namespace hetmem
