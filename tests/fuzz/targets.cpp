#include "targets.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/safetensors.h"
#include "io/tokenizer.h"

namespace hetmem::fuzz {
namespace {

// A folder of this process, removed at its end.
class Folder {
 public:
  Folder()
      : path_(std::filesystem::temp_directory_path() /
              ("hetmem-fuzz-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path() const { return path_.string(); }
  std::string write(const char* name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

const Folder& folder() {
  static const Folder only;
  return only;
}

void require(bool condition) {
  if (!condition) __builtin_trap();
}

}  // namespace

bool read_safetensors(std::string_view bytes) {
  const std::string path = folder().write("x.safetensors", bytes);
  try {
    const SafetensorsReader reader(path);
    for (const std::string& name : reader.names()) {
      const TensorInfo& info = reader.info(name);
      require(info.bytes >= 0 && static_cast<size_t>(info.bytes) <= bytes.size());
      std::vector<char> data(static_cast<size_t>(info.bytes));
      reader.read(name, data.data());
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

bool use_tokenizer(std::string_view json, std::string_view text) {
  folder().write("tokenizer.json", json);
  try {
    const Tokenizer tokenizer = Tokenizer::load(folder().path());
    const std::vector<int32_t> ids = tokenizer.encode_prompt(text);
    StreamDecoder decoder(tokenizer);
    for (const int32_t id : ids) {
      require(id >= 0 && id < tokenizer.vocabulary());
      decoder.next(id);
    }
    decoder.finish();
    tokenizer.decode(ids);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace hetmem::fuzz
