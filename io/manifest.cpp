#include "io/manifest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/error.h"
#include "io/file.h"
#include "io/json.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "manifest.json";

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// Sixteen hexadecimal bytes, in the canonical (big-endian) form.
std::string sum_of(const File& file) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  const std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  std::vector<char> piece(static_cast<size_t>(kPiece));
  const int64_t size = file.size();
  for (int64_t at = 0; at < size; at += kPiece) {
    const int64_t now = std::min(kPiece, size - at);
    file.read(at, piece.data(), now);
    XXH3_128bits_update(state.get(), piece.data(), static_cast<size_t>(now));
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state.get()));
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return text;
}

}  // namespace

void write_manifest(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  Json files = Json::object();
  for (const std::string& name : names) {
    if (name == kName) continue;
    const File file = File::open_for_reading(folder + "/" + name);
    files[name] = {{"bytes", file.size()}, {"xxh3_128", sum_of(file)}};
  }
  write_text_file(folder + "/" + kName, Json{{"files", files}}.dump(1) + "\n");
}

void verify_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kName;
  const Json manifest = read_json_file(path);
  if (!manifest.is_object() || !manifest.contains("files") || !manifest["files"].is_object()) {
    throw Error(ErrorKind::kBadInput, path + " does not list files");
  }
  for (const auto& [name, entry] : manifest["files"].items()) {
    const std::string at = folder + "/" + name;
    std::error_code code;
    if (name.find('/') != std::string::npos || !fs::is_regular_file(at, code)) {
      throw Error(ErrorKind::kStorage, at + " is missing, " + path + " lists it");
    }
    const File file = File::open_for_reading(at);
    if (entry.value("bytes", int64_t{-1}) != file.size() ||
        entry.value("xxh3_128", std::string()) != sum_of(file)) {
      throw Error(ErrorKind::kStorage,
                  at + " is not what was written (size or checksum); use another checkpoint");
    }
  }
}

}  // namespace hetmem
