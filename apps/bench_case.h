// What benchmarks of whole steps run on: a folder that holds nothing but a configuration, and token
// ids that mean nothing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace hetmem::apps {

// A model folder with nothing but a config.json, removed at the end.
class ConfigFolder {
 public:
  explicit ConfigFolder(const std::string& json);
  ~ConfigFolder();
  ConfigFolder(const ConfigFolder&) = delete;
  ConfigFolder& operator=(const ConfigFolder&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary);

}  // namespace hetmem::apps
