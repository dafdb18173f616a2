#include "io/text_data.h"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "io/json.h"
#include "io/token_dataset.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPiece = int64_t{4} << 20;  // bytes of text that are looked at together
constexpr int64_t kMostNarrow = 65536;        // tokens that fit uint16

bool matches(const std::string& glob, const fs::path& file, const fs::path& folder) {
  if (glob.find('/') == std::string::npos) {
    return fnmatch(glob.c_str(), file.filename().c_str(), 0) == 0;
  }
  // "**/" also stands for no folder at all.
  const std::string relative = file.lexically_relative(folder).string();
  if (fnmatch(glob.c_str(), relative.c_str(), 0) == 0) return true;
  return glob.rfind("**/", 0) == 0 && fnmatch(glob.c_str() + 3, relative.c_str(), 0) == 0;
}

std::vector<std::string> files_in(const fs::path& folder, const std::string& glob) {
  std::vector<std::string> files;
  std::error_code code;
  fs::recursive_directory_iterator entries(folder, fs::directory_options::skip_permission_denied,
                                           code);
  for (; !code && entries != fs::recursive_directory_iterator(); entries.increment(code)) {
    std::error_code unknown;
    if (entries->is_regular_file(unknown) && matches(glob, entries->path(), folder)) {
      files.push_back(entries->path().string());
    }
  }
  if (code) {
    throw Error(ErrorKind::kBadInput,
                "cannot list the folder " + folder.string() + ": " + code.message());
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Where long text may be cut without changing a token: before a newline that follows a letter,
// since no split pattern joins the two. 0 where there is no such place.
size_t safe_cut(std::string_view text) {
  for (size_t at = text.size() - 1; at > 0; --at) {
    if (text[at] == '\n' && is_letter(text[at - 1])) return at;
  }
  return 0;
}

}  // namespace

std::vector<std::string> data_files(const std::vector<std::string>& paths, const std::string& glob,
                                    const std::string& flag) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code code;
    if (!fs::exists(path, code)) {
      throw Error(ErrorKind::kBadInput, flag + " " + path + ": there is no such file or folder");
    }
    if (!fs::is_directory(path, code)) {
      if (!fs::is_regular_file(path, code)) {  // to open a pipe is to wait for its writer
        throw Error(ErrorKind::kBadInput,
                    flag + " " + path + ": neither a regular file nor a folder");
      }
      files.push_back(path);
      continue;
    }
    const std::vector<std::string> found = files_in(path, glob);
    if (found.empty()) {
      throw Error(ErrorKind::kBadInput,
                  flag + " " + path + ": no file in the folder matches --data-glob " + glob);
    }
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

bool is_token_file(const std::string& path) { return fs::path(path).extension() == ".bin"; }

TokenFileWriter::TokenFileWriter(const std::string& path, int64_t vocabulary)
    : file_(File::create(path)), wide_(vocabulary > kMostNarrow), at_(kTokenHeaderBytes) {}

void TokenFileWriter::append(std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) {
    const size_t end = buffer_.size();
    buffer_.resize(end + (wide_ ? 4 : 2));
    const auto narrow = static_cast<uint16_t>(token);
    std::memcpy(buffer_.data() + end, wide_ ? static_cast<const void*>(&token) : &narrow,
                wide_ ? 4 : 2);
  }
  count_ += static_cast<int64_t>(tokens.size());
  if (static_cast<int64_t>(buffer_.size()) >= kPiece) flush();
}

void TokenFileWriter::flush() {
  file_.write(at_, buffer_.data(), static_cast<int64_t>(buffer_.size()));
  at_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

void TokenFileWriter::finish() {
  flush();
  constexpr int64_t kMostTokens = (int64_t{1} << 31) - 1;
  if (count_ > kMostTokens) {
    throw Error(ErrorKind::kBadInput, "a token file holds at most 2^31 - 1 tokens, there are " +
                                          std::to_string(count_) + "; make several files");
  }
  const std::vector<int32_t> header = token_file_header(wide_, count_);
  file_.write(0, header.data(), kTokenHeaderBytes);
  file_.sync();
}

DataTokenizer::DataTokenizer(const Tokenizer& tokenizer, int32_t end_of_text, int64_t vocabulary,
                             TokenFileWriter& writer)
    : encoder_(tokenizer), vocabulary_(vocabulary), end_of_text_(end_of_text), writer_(writer) {}

void DataTokenizer::encode(std::string_view text) {
  bytes_ += static_cast<int64_t>(text.size());
  ids_.clear();
  encoder_.encode(text, ids_);
  writer_.append(ids_);
}

void DataTokenizer::end_document() { writer_.append(std::span(&end_of_text_, 1)); }

void DataTokenizer::add(const std::string& path) {
  if (is_token_file(path)) {
    const TokenDataset tokens({path}, 0, vocabulary_);
    for (int64_t at = 0; at < tokens.tokens(); at += kPiece) {
      ids_.resize(static_cast<size_t>(std::min(kPiece, tokens.tokens() - at)));
      tokens.read(at, ids_);
      writer_.append(ids_);
    }
    return;
  }
  const File file = File::open_for_reading(path);
  if (fs::path(path).extension() == ".jsonl") {
    add_lines(file);
  } else {
    add_text(file);
  }
}

void DataTokenizer::add_text(const File& file) {
  const int64_t size = file.size();
  std::string text;
  for (int64_t at = 0; at < size;) {
    const int64_t now = std::min(kPiece, size - at);
    const size_t kept = text.size();
    text.resize(kept + static_cast<size_t>(now));
    file.read(at, text.data() + kept, now);
    at += now;
    const size_t cut = at < size ? safe_cut(text) : text.size();
    if (cut == 0) continue;
    encode(std::string_view(text).substr(0, cut));
    text.erase(0, cut);
  }
  end_document();
}

void DataTokenizer::add_lines(const File& file) {
  const int64_t size = file.size();
  std::string text;
  int64_t number = 0;
  for (int64_t at = 0; at < size;) {
    const int64_t now = std::min(kPiece, size - at);
    const size_t kept = text.size();
    text.resize(kept + static_cast<size_t>(now));
    file.read(at, text.data() + kept, now);
    at += now;
    size_t begin = 0;
    for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
      add_document_line(file.path(), ++number, std::string_view(text).substr(begin, end - begin));
      begin = end + 1;
    }
    text.erase(0, begin);
  }
  if (!text.empty()) add_document_line(file.path(), ++number, text);
}

void DataTokenizer::add_document_line(const std::string& path, int64_t number,
                                      std::string_view line) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
  const std::string source = path + " line " + std::to_string(number);
  const Json json = parse_json(line, source);
  if (json.is_object() && !json.contains("text") &&
      (json.contains("messages") || json.contains("prompt"))) {
    throw Error(ErrorKind::kBadInput,
                source + ": \"messages\" and \"prompt\" are not in this version; give \"text\"");
  }
  if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) {
    throw Error(ErrorKind::kBadInput, source + " is not an object with a text under \"text\"");
  }
  encode(json["text"].get_ref<const std::string&>());
  end_document();
}

}  // namespace hetmem
