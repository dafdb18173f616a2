#include <fmt/format.h>

#include <chrono>

#include "apps/commands.h"
#include "core/error.h"
#include "io/text_data.h"
#include "runtime/prepared_data.h"

namespace hetmem::apps {

int tokenize(const TokenizeOptions& options) {
  const std::vector<std::string> files = data_files(options.files, options.data_glob, "tokenize");
  const auto start = std::chrono::steady_clock::now();
  const TokenizedData written =
      write_token_file(files, options.model, load_model_config(options.model), options.out);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{}: {} tokens from {} files, {:.1f} MB/s\n", options.out, written.tokens,
             files.size(), static_cast<double>(written.text_bytes) / seconds * 1e-6);
  return 0;
}

}  // namespace hetmem::apps
