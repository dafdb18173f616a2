#include "io/manifest.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "io/checksum.h"
#include "io/file.h"
#include "io/json.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "manifest.json";

std::string sum_of(const File& file) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  Checksum sum;
  std::vector<char> piece(static_cast<size_t>(kPiece));
  const int64_t size = file.size();
  for (int64_t at = 0; at < size; at += kPiece) {
    const int64_t now = std::min(kPiece, size - at);
    file.read(at, piece.data(), now);
    sum.update(piece.data(), now);
  }
  return sum.text();
}

std::string text_of(const Json& manifest) { return manifest.dump(1) + "\n"; }

}  // namespace

void write_manifest(const std::string& folder, const std::vector<FileSum>& sums) {
  Json files = Json::object();
  for (const FileSum& sum : sums) {
    files[sum.name] = {{"bytes", sum.bytes}, {"xxh3_128", sum.xxh3_128}};
  }
  write_text_file(folder + "/" + kName, text_of(Json{{"files", files}}));
}

bool has_manifest(const std::string& folder) {
  std::error_code code;
  return fs::is_regular_file(folder + "/" + kName, code);
}

void verify_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kName;
  const Json manifest = read_json_file(path);
  // It has no sum of its own: but for what it says there is one way to write it.
  if (read_text_file(path) != text_of(manifest) || !manifest.is_object() ||
      !manifest.contains("files") || !manifest["files"].is_object()) {
    throw Error(ErrorKind::kCorrupt, path + " is not what was written; use another checkpoint");
  }
  for (const auto& [name, entry] : manifest["files"].items()) {
    const std::string at = folder + "/" + name;
    std::error_code code;
    if (name.find('/') != std::string::npos || !fs::is_regular_file(at, code)) {
      throw Error(ErrorKind::kCorrupt, at + " is missing, " + path + " lists it");
    }
    const File file = File::open_for_reading(at);
    if (entry.value("bytes", int64_t{-1}) != file.size() ||
        entry.value("xxh3_128", std::string()) != sum_of(file)) {
      throw Error(ErrorKind::kCorrupt,
                  at + " is not what was written (size or checksum); use another checkpoint");
    }
  }
}

}  // namespace hetmem
