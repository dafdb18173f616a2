#include "apps/bench_case.h"

#include "core/philox.h"
#include "io/file.h"

namespace hetmem::apps {

ConfigFolder::ConfigFolder(const std::string& json)
    : path_(make_temporary_folder("hetmem-bench-")) {
  write_text_file(path_.string() + "/config.json", json);
}

ConfigFolder::~ConfigFolder() {
  std::error_code code;
  std::filesystem::remove_all(path_, code);
}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(philox(1, 0, i)[0] % static_cast<uint32_t>(vocabulary));
  }
  return tokens;
}

}  // namespace hetmem::apps
