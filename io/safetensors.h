// safetensors: reading one file or a folder of shards under all of the format's rules, and writing.
// Nothing is mapped: bytes are read by position. A reader may be used from several threads.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "io/checksum.h"
#include "io/file.h"

namespace hetmem {

struct TensorInfo {
  DType dtype = DType::kFloat32;
  Shape shape;
  int64_t bytes = 0;
};

class SafetensorsReader {
 public:
  // Reads and checks the headers of PATH: a file, or a folder with model.safetensors or
  // model.safetensors.index.json. Throws Error (kBadInput) that names the file and what is wrong.
  explicit SafetensorsReader(const std::string& path);

  // In the order of shards and offsets.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return entries_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const;
  // The file that holds a tensor, for messages.
  const std::string& file_of(const std::string& name) const;
  void read(const std::string& name, void* destination) const;
  // `count` of them, from `first` on.
  void read(const std::string& name, int64_t first, int64_t count, void* destination) const;
  // All elements as fp32 (from F32, BF16 or F16). Throws Error (kBadInput) for other dtypes.
  void read_as_float(const std::string& name, float* destination) const;
  // `count` of them, from `first` on.
  void read_as_float(const std::string& name, int64_t first, int64_t count,
                     float* destination) const;

 private:
  struct Entry {
    size_t file;
    int64_t offset;
    TensorInfo info;
  };
  void add_file(const std::string& path);
  void add_shards(const std::string& folder, const std::string& index_path);
  const Entry& entry(const std::string& name) const;

  std::vector<File> files_;
  std::vector<std::string> names_;
  std::map<std::string, Entry> entries_;
};

struct NamedTensorInfo {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
};

// Writes a file whose tensors are known beforehand; data follows in order, in pieces.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, const std::vector<NamedTensorInfo>& tensors);
  // The next bytes of the data section.
  void append(const void* data, int64_t bytes);
  // What was written. Throws Error (kInternal) where less or more was appended than announced.
  FileSum finish();

 private:
  void write(const void* data, int64_t bytes);
  File file_;
  Checksum sum_;
  int64_t end_ = 0;
};

}  // namespace hetmem
