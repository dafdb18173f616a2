// GenerateConfig: everything that `generate` can be told, and the table of its options that the
// command line and Python read. Values; thread-safe to read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/generator.h"
#include "runtime/options.h"

namespace hetmem {

struct GenerateConfig {
  std::string model;
  std::optional<std::string> prompt;
  int64_t max_new_tokens = 128;
  SamplingOptions sampling;
  GeneratorOptions machine;
};
const std::vector<OptionOf<GenerateConfig>>& generate_options();

// Applies named values over the defaults. Throws Error (kBadInput) that names the flag.
GenerateConfig resolve_generate_config(const OptionValues& values);

}  // namespace hetmem
