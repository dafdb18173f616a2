#include "tests/offload/disk_fixture.h"

#include <fstream>

#include "core/philox.h"

namespace hetmem {

DiskOptions small_options(const std::vector<std::string>& folders) {
  DiskOptions options;
  options.folders = folders;
  options.budget = 1 << 20;
  options.piece_bytes = kPiece;
  options.depth = 3;
  return options;
}

std::vector<char> random_payload(int64_t bytes, uint64_t seed) {
  std::vector<char> payload(static_cast<size_t>(bytes));
  for (size_t i = 0; i < payload.size(); ++i) {
    payload[i] = static_cast<char>(philox(seed, 0, i / 16)[i / 4 % 4] >> (8 * (i % 4)));
  }
  return payload;
}

std::vector<char> bytes_on_disk(const std::string& path, int64_t offset, int64_t bytes) {
  std::vector<char> found(static_cast<size_t>(bytes));
  std::ifstream file(path, std::ios::binary);
  file.seekg(offset);
  file.read(found.data(), bytes);
  EXPECT_TRUE(file.good()) << path;
  return found;
}

void overwrite_on_disk(const std::string& path, int64_t offset, const std::vector<char>& bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(offset);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.flush();
  EXPECT_TRUE(file.good()) << path;
}

void flip_bit_on_disk(const std::string& path, int64_t bit) {
  std::vector<char> byte = bytes_on_disk(path, bit / 8, 1);
  byte[0] = static_cast<char>(byte[0] ^ (1 << bit % 8));
  overwrite_on_disk(path, bit / 8, byte);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace hetmem
