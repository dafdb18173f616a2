#include "io/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "../fuzz/targets.h"
#include "core/error.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  Safetensors() : folder_(fs::temp_directory_path() / ("hetmem-st-" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~Safetensors() override { fs::remove_all(folder_); }

  std::string path() const { return (folder_ / "model.safetensors").string(); }
  void write(const std::string& content) const {
    std::ofstream(path(), std::ios::binary) << content;
  }
  void write(const std::string& header, size_t data_bytes) const {
    uint64_t length = header.size();
    std::string content(8, '\0');
    std::memcpy(content.data(), &length, 8);
    write(content + header + std::string(data_bytes, 'x'));
  }
  std::string read() const {
    std::ifstream file(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path folder_;
};

TEST_F(Safetensors, WhatIsWrittenIsRead) {
  const std::vector<float> a{1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> b{0x3f80, 0xc000};  // 1, -2
  SafetensorsWriter writer(path(), {{"a", DType::kFloat32, {2, 3}}, {"b", DType::kBFloat16, {2}}});
  writer.append(a.data(), 8);
  writer.append(a.data() + 2, 16);
  writer.append(b.data(), 4);
  writer.finish();
  const SafetensorsReader reader(folder_.string());
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(reader.info("a").shape, (Shape{2, 3}));
  std::vector<float> found(6);
  reader.read("a", found.data());
  EXPECT_EQ(found, a);
  reader.read_as_float("b", found.data());
  EXPECT_EQ(found[0], 1.0F);
  EXPECT_EQ(found[1], -2.0F);
  EXPECT_THROW(reader.info("c"), Error);
}

TEST_F(Safetensors, AWriterThatIsNotFedThrows) {
  SafetensorsWriter writer(path(), {{"a", DType::kFloat32, {2}}});
  EXPECT_THROW(writer.finish(), Error);
  const double many[4] = {};
  EXPECT_THROW(writer.append(many, 32), Error);
}

// Each breaks one rule of the format.
TEST_F(Safetensors, RulesOfTheFormat) {
  const std::vector<std::pair<std::string, size_t>> broken{
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8},                                                                // overlap
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8},   // hole
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8},   // tail
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8},   // lying shape
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8},   // backwards
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8},  // negative
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8},  // negative shape
      {R"({"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}})", 8},    // dtype
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8},                        // no offsets
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8},        // a key twice
      {"[]", 0},  // not an object
      {R"({"__metadata__":{"k":3},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8},
  };
  for (const auto& [header, bytes] : broken) {
    write(header, bytes);
    try {
      const SafetensorsReader reader(path());
      FAIL() << header;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << header;
      EXPECT_NE(std::string(error.what()).find(path()), std::string::npos) << error.what();
    }
  }
}

TEST_F(Safetensors, EmptyTensorsAndMetadataAreFine) {
  write(
      R"({"__metadata__":{"format":"pt"},"e":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
      4);
  const SafetensorsReader reader(path());
  EXPECT_EQ(reader.info("e").bytes, 0);
  EXPECT_EQ(reader.info("s").shape.elements(), 1);
}

// Any file at all is read or refused, never worse: random bytes, cuts and flips of a good file.
TEST_F(Safetensors, MutationsAreReadOrRefused) {
  SafetensorsWriter writer(path(), {{"a", DType::kFloat32, {3}}, {"b", DType::kFloat16, {2, 2}}});
  const std::string data(20, 'd');
  writer.append(data.data(), 20);
  writer.finish();
  const std::string good = read();
  std::mt19937 random(5);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string mutant = good;
    const int flips = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < flips; ++i) mutant[random() % mutant.size()] = static_cast<char>(random());
    if (round % 5 == 0) mutant.resize(random() % mutant.size());
    if (!fuzz::read_safetensors(mutant)) ++refused;
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace hetmem
