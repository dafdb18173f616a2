// PreparedData: what --data names as token files. Text is tokenised to a file of its own in a
// private temporary folder, which goes with this object: datasets keep their files open.
#pragma once

#include <string>
#include <vector>

#include "io/model_config.h"

namespace hetmem {

class PreparedData {
 public:
  // `flag` names the option in messages. Throws Error (kBadInput) for what is missing or no data.
  PreparedData(const std::vector<std::string>& paths, const std::string& glob,
               const std::string& flag, const std::string& model_folder, const ModelConfig& model);
  ~PreparedData();
  PreparedData(const PreparedData&) = delete;
  PreparedData& operator=(const PreparedData&) = delete;
  const std::vector<std::string>& token_files() const { return token_files_; }

 private:
  std::vector<std::string> token_files_;
  int owner_ = 0;       // the process that made the folder
  std::string folder_;  // of what was tokenised; empty: nothing was
};

// Writes the token file of `files` (text and token files) to `path`, atomically; what `tokenize`
// does.
struct TokenizedData {
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};
TokenizedData write_token_file(const std::vector<std::string>& files,
                               const std::string& model_folder, const ModelConfig& model,
                               const std::string& path);

}  // namespace hetmem
