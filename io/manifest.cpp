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

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kCorrupt,
              path + " is not what was written: " + what + "; use another checkpoint");
}

Json parse_manifest(const std::string& path) {
  const std::string text = read_text_file(path);
  Json manifest;
  try {
    manifest = parse_json(text, path);
  } catch (const Error& error) {
    refuse(path, error.what());
  }
  // It has no sum of its own: but for what it says there is one way to write it.
  if (text != text_of(manifest)) refuse(path, "it is written in another way");
  if (!manifest.is_object() || !manifest.contains("files") || !manifest["files"].is_object()) {
    refuse(path, "it has no object \"files\"");
  }
  return manifest;
}

void verify_file(const std::string& path, const std::string& name, const Json& entry,
                 const std::string& manifest) {
  if (!entry.is_object() || !entry.contains("bytes") || !entry["bytes"].is_number_unsigned() ||
      !entry.contains("xxh3_128") || !entry["xxh3_128"].is_string()) {
    refuse(manifest, "of \"" + name + "\" it does not say \"bytes\" and \"xxh3_128\"");
  }
  std::error_code code;
  if (name.find('/') != std::string::npos || !fs::is_regular_file(path, code)) {
    throw Error(ErrorKind::kCorrupt, path + " is missing, " + manifest + " lists it");
  }
  const File file = File::open_for_reading(path);
  const auto bytes = entry["bytes"].get<uint64_t>();
  if (bytes != static_cast<uint64_t>(file.size())) {
    refuse(path, "it has " + std::to_string(file.size()) + " bytes of " + std::to_string(bytes));
  }
  if (entry["xxh3_128"].get<std::string>() != sum_of(file)) {
    refuse(path, "its checksum is another one");
  }
}

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
  const Json manifest = parse_manifest(path);
  for (const auto& [name, entry] : manifest["files"].items()) {
    verify_file(folder + "/" + name, name, entry, path);
  }
}

std::string unlisted_entry(const std::string& folder) {
  Json files = Json::object();
  try {
    if (has_manifest(folder)) {
      files = parse_manifest(folder + "/" + kName)["files"];
      files[kName] = nullptr;
    }
  } catch (const Error&) {  // then it lists nothing
  }
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    std::string name = entry.path().filename().string();
    const bool is_file = entry.symlink_status(code).type() == fs::file_type::regular;
    if (!is_file || !files.contains(name)) return name;
  }
  if (!code) return "";
  throw Error(ErrorKind::kStorage, "cannot look into " + folder + ": " + code.message());
}

}  // namespace hetmem
