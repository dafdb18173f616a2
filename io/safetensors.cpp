#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "io/json.h"

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxHeader = 100'000'000;
constexpr JsonLimits kHeaderLimits{static_cast<size_t>(kMaxHeader), 8};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kBadInput, path + ": " + what);
}

int64_t to_count(const Json& json, const std::string& path, const std::string& name) {
  if (!json.is_number_unsigned() && !(json.is_number_integer() && json.get<int64_t>() >= 0)) {
    refuse(path, "tensor \"" + name + "\" has a size that is not a whole number");
  }
  const auto value = json.get<uint64_t>();
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    refuse(path, "tensor \"" + name + "\" has a size out of range");
  }
  return static_cast<int64_t>(value);
}

struct HeaderEntry {
  std::string name;
  TensorInfo info;
  int64_t begin = 0;
  int64_t end = 0;
};

HeaderEntry parse_entry(const std::string& path, const std::string& name, const Json& json) {
  HeaderEntry entry;
  entry.name = name;
  if (!json.is_object() || json.size() != 3 || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets") || !json["dtype"].is_string() || !json["shape"].is_array() ||
      !json["data_offsets"].is_array() || json["data_offsets"].size() != 2) {
    refuse(path, "tensor \"" + name + "\" is not described by dtype, shape and data_offsets");
  }
  try {
    entry.info.dtype = dtype_from_safetensors(json["dtype"].get<std::string>());
  } catch (const Error& error) {
    refuse(path, "tensor \"" + name + "\": " + error.what());
  }
  if (json["shape"].size() > Shape::kMaxRank) {
    refuse(path, "tensor \"" + name + "\" has more than " + std::to_string(Shape::kMaxRank) +
                     " dimensions");
  }
  int64_t bytes = size_of(entry.info.dtype);
  for (const Json& dimension : json["shape"]) {
    const int64_t length = to_count(dimension, path, name);
    if (__builtin_mul_overflow(bytes, length, &bytes)) {
      refuse(path, "tensor \"" + name + "\" has a shape that overflows");
    }
    entry.info.shape.append(length);
  }
  entry.info.bytes = bytes;
  entry.begin = to_count(json["data_offsets"][0], path, name);
  entry.end = to_count(json["data_offsets"][1], path, name);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    refuse(path, "tensor \"" + name + "\" has offsets that do not match its shape and dtype");
  }
  return entry;
}

std::vector<HeaderEntry> parse_header(const File& file, int64_t& data_begin) {
  const std::string& path = file.path();
  const int64_t size = file.size();
  uint64_t length = 0;
  if (size < 10) refuse(path, "is too short to be a safetensors file");
  file.read(0, &length, sizeof(length));
  if (length > static_cast<uint64_t>(std::min(kMaxHeader, size - 8))) {
    refuse(path, "claims a header of " + std::to_string(length) + " bytes, the file has " +
                     std::to_string(size) + "; it is truncated or no safetensors file");
  }
  std::string text(length, '\0');
  file.read(8, text.data(), static_cast<int64_t>(length));
  if (text.empty() || text.front() != '{') refuse(path, "has a header that is no JSON object");
  const Json header = parse_json(text, path + " (header)", kHeaderLimits);
  std::vector<HeaderEntry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      const bool strings = json.is_object() && std::all_of(json.begin(), json.end(),
                                                           [](auto& v) { return v.is_string(); });
      if (!strings) refuse(path, "has metadata that is no map of strings");
      continue;
    }
    entries.push_back(parse_entry(path, name, json));
  }
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  data_begin = 8 + static_cast<int64_t>(length);
  int64_t expected = 0;
  for (const HeaderEntry& entry : entries) {
    if (entry.begin != expected) {
      refuse(path, "tensor \"" + entry.name + "\" overlaps another or leaves a hole");
    }
    expected = entry.end;
  }
  if (expected != size - data_begin) {
    refuse(path, "holds " + std::to_string(size - data_begin) + " bytes of data, its header says " +
                     std::to_string(expected) + "; it is truncated or damaged");
  }
  return entries;
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::string& path) {
  std::error_code code;
  const std::string index = path + "/model.safetensors.index.json";
  const std::string single = path + "/model.safetensors";
  if (!fs::is_directory(path, code)) {
    add_file(path);
  } else if (fs::exists(single, code)) {
    add_file(single);
  } else if (fs::exists(index, code)) {
    add_shards(path, index);
  } else {
    throw Error(ErrorKind::kBadInput, path +
                                          " holds neither model.safetensors nor "
                                          "model.safetensors.index.json; to start from random "
                                          "weights give --from-scratch");
  }
}

void SafetensorsReader::add_file(const std::string& path) {
  files_.push_back(File::open_for_reading(path));
  int64_t data_begin = 0;
  for (HeaderEntry& entry : parse_header(files_.back(), data_begin)) {
    if (contains(entry.name)) refuse(path, "tensor \"" + entry.name + "\" is in another shard too");
    names_.push_back(entry.name);
    entries_[entry.name] = {files_.size() - 1, data_begin + entry.begin, entry.info};
  }
}

void SafetensorsReader::add_shards(const std::string& folder, const std::string& index_path) {
  const Json index = read_json_file(index_path, kHeaderLimits);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    refuse(index_path, "has no weight_map");
  }
  std::vector<std::string> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) refuse(index_path, "\"" + name + "\" is mapped to no file name");
    const auto file = shard.get<std::string>();
    if (file.empty() || file.find('/') != std::string::npos || file == ".." || file == ".") {
      refuse(index_path, "\"" + name + "\" points outside the folder: \"" + file + "\"");
    }
    if (std::find(shards.begin(), shards.end(), file) == shards.end()) shards.push_back(file);
  }
  std::sort(shards.begin(), shards.end());
  for (const std::string& shard : shards) {
    const std::string path = folder + "/" + shard;
    add_file(path);
  }
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!contains(name) || fs::path(file_of(name)).filename() != shard.get<std::string>()) {
      refuse(index_path, "\"" + name + "\" is not in " + shard.get<std::string>());
    }
  }
}

const SafetensorsReader::Entry& SafetensorsReader::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  HETMEM_ASSERT(found != entries_.end());
  return found->second;
}

const TensorInfo& SafetensorsReader::info(const std::string& name) const {
  return entry(name).info;
}

const std::string& SafetensorsReader::file_of(const std::string& name) const {
  return files_[entry(name).file].path();
}

void SafetensorsReader::read(const std::string& name, void* destination) const {
  const Entry& found = entry(name);
  files_[found.file].read(found.offset, destination, found.info.bytes);
}

void SafetensorsReader::read(const std::string& name, int64_t first, int64_t count,
                             void* destination) const {
  const Entry& found = entry(name);
  HETMEM_ASSERT(first >= 0 && first + count <= found.info.shape.elements());
  const int64_t size = size_of(found.info.dtype);
  files_[found.file].read(found.offset + first * size, destination, count * size);
}

void SafetensorsReader::read_as_float(const std::string& name, float* destination) const {
  read_as_float(name, 0, info(name).shape.elements(), destination);
}

void SafetensorsReader::read_as_float(const std::string& name, int64_t first, int64_t count,
                                      float* destination) const {
  const Entry& found = entry(name);
  const DType dtype = found.info.dtype;
  HETMEM_ASSERT(first >= 0 && first + count <= found.info.shape.elements());
  if (dtype == DType::kFloat32) return read(name, first, count, destination);
  if (dtype != DType::kBFloat16 && dtype != DType::kFloat16) {
    refuse(file_of(name), "tensor \"" + name + "\" is " + std::string(name_of(dtype)) +
                              "; weights must be float32, bfloat16 or float16");
  }
  constexpr int64_t kPiece = 65536;
  std::vector<uint16_t> piece(kPiece);
  for (int64_t done = 0; done < count; done += kPiece) {
    const int64_t now = std::min(kPiece, count - done);
    files_[found.file].read(found.offset + (first + done) * 2, piece.data(), now * 2);
    for (int64_t i = 0; i < now; ++i) {
      const uint16_t bits = piece[static_cast<size_t>(i)];
      destination[done + i] =
          dtype == DType::kBFloat16 ? float_from_bf16(bits) : float_from_fp16(bits);
    }
  }
}

SafetensorsWriter::SafetensorsWriter(const std::string& path,
                                     const std::vector<NamedTensorInfo>& tensors)
    : file_(File::create(path)) {
  Json header = Json::object();
  header["__metadata__"] = {{"format", "pt"}};
  int64_t offset = 0;
  for (const NamedTensorInfo& tensor : tensors) {
    const int64_t bytes = tensor.shape.elements() * size_of(tensor.dtype);
    Json shape = Json::array();
    for (int i = 0; i < tensor.shape.rank(); ++i) shape.push_back(tensor.shape[i]);
    header[tensor.name] = {{"dtype", std::string(safetensors_name(tensor.dtype))},
                           {"shape", shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  write(&length, sizeof(length));
  write(text.data(), static_cast<int64_t>(length));
  end_ = sum_.bytes() + offset;
}

void SafetensorsWriter::write(const void* data, int64_t bytes) {
  file_.append(data, bytes);
  sum_.update(data, bytes);
}

void SafetensorsWriter::append(const void* data, int64_t bytes) {
  HETMEM_ASSERT(sum_.bytes() + bytes <= end_);
  write(data, bytes);
}

FileSum SafetensorsWriter::finish() {
  HETMEM_ASSERT(sum_.bytes() == end_);
  file_.sync();
  return {fs::path(file_.path()).filename().string(), sum_.bytes(), sum_.text()};
}

}  // namespace hetmem
