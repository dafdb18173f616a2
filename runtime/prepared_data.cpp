#include "runtime/prepared_data.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "io/file.h"
#include "io/text_data.h"
#include "io/tokenizer.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

void remove_quietly(const std::string& path) {
  std::error_code code;
  fs::remove_all(path, code);
}

// What is written, first under another name, must be nothing that is read.
void require_apart(const std::string& written, const std::vector<std::string>& read,
                   const std::string& path) {
  for (const std::string& input : read) {
    std::error_code code;
    if (!fs::equivalent(written, input, code)) continue;
    throw Error(ErrorKind::kBadInput, "cannot write " + path + ": " + input +
                                          " is read and would be replaced; name another file");
  }
}

}  // namespace

TokenizedData write_token_file(const std::vector<std::string>& files,
                               const std::string& model_folder, const ModelConfig& model,
                               const std::string& path) {
  const std::string place = writable_file(path);
  const std::string temporary = place + ".partial";
  std::vector<std::string> read = files;
  for (const char* name : {"/tokenizer.json", "/config.json"}) read.push_back(model_folder + name);
  require_apart(place, read, path);
  require_apart(temporary, read, path);
  const Tokenizer tokenizer = Tokenizer::load(model_folder);
  TokenizedData result;
  try {
    TokenFileWriter writer(temporary, std::max(model.vocabulary, tokenizer.vocabulary()));
    DataTokenizer data(tokenizer, tokenizer.end_of_text(model.eos_token_ids), model.vocabulary,
                       writer);
    for (const std::string& file : files) data.add(file);
    writer.finish();
    result = {writer.tokens(), data.bytes()};
    fs::rename(temporary, place);
  } catch (const fs::filesystem_error& error) {
    remove_quietly(temporary);
    throw Error(ErrorKind::kStorage, "cannot write " + path + ": " + error.code().message());
  } catch (...) {
    remove_quietly(temporary);
    throw;
  }
  return result;
}

PreparedData::PreparedData(const std::vector<std::string>& paths, const std::string& glob,
                           const std::string& flag, const std::string& model_folder,
                           const ModelConfig& model) {
  const std::vector<std::string> files = data_files(paths, glob, flag);
  if (std::all_of(files.begin(), files.end(), is_token_file)) {
    token_files_ = files;
    return;
  }
  owner_ = getpid();
  folder_ = make_temporary_folder("hetmem-data-");
  try {
    token_files_ = {folder_ + "/tokens.bin"};
    write_token_file(files, model_folder, model, token_files_.front());
  } catch (...) {
    remove_quietly(folder_);
    throw;
  }
}

PreparedData::~PreparedData() {
  // A process that was forked ends before the one that made it.
  if (!folder_.empty() && owner_ == getpid()) remove_quietly(folder_);
}

}  // namespace hetmem
