#include "io/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <vector>

#include "core/error.h"
#include "io/json.h"
#include "io/token_dataset.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

class Files : public testing::Test {
 protected:
  Files() : folder_(fs::temp_directory_path() / ("hetmem-io-" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~Files() override { fs::remove_all(folder_); }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }
  void write_tokens(const std::string& name, int32_t magic, int32_t version,
                    const std::vector<uint32_t>& tokens, int width) const {
    File file = File::create(at(name));
    std::vector<int32_t> header(256, 0);
    header[0] = magic;
    header[1] = version;
    header[2] = static_cast<int32_t>(tokens.size());
    file.write(0, header.data(), 1024);
    for (size_t i = 0; i < tokens.size(); ++i) {
      file.write(1024 + static_cast<int64_t>(i) * width, &tokens[i], width);
    }
  }

  fs::path folder_;
};

TEST_F(Files, ReadsFinishOrThrow) {
  File file = File::create(at("f"));
  file.write(0, "hello", 5);
  const File reader = File::open_for_reading(at("f"));
  char text[5];
  reader.read(1, text, 4);
  EXPECT_EQ(std::string(text, 4), "ello");
  try {
    reader.read(3, text, 5);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kStorage);
  }
  EXPECT_THROW(File::open_for_reading(at("none")), Error);
  EXPECT_THROW(File::open_for_reading(folder_.string()), Error);
}

TEST_F(Files, ADirectoryAppearsCompleteOrNotAtAll) {
  {
    const AtomicDirectory directory(at("out"));
    write_text_file(directory.path() + "/a", "1");
    EXPECT_FALSE(fs::exists(at("out")));
  }
  EXPECT_EQ(entries(), 0U);  // given up: nothing is left
  AtomicDirectory directory(at("out"));
  write_text_file(directory.path() + "/a", "1");
  directory.commit();
  EXPECT_EQ(read_text_file(at("out") + "/a"), "1");
  AtomicDirectory second(at("out"));
  write_text_file(second.path() + "/b", "2");
  second.commit();
  EXPECT_FALSE(fs::exists(at("out") + "/a"));
  EXPECT_EQ(read_text_file(at("out") + "/b"), "2");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(Files, WindowsOverSeveralFilesOfBothWidths) {
  write_tokens("a.bin", 20240520, 1, {0, 1, 2, 3, 4}, 2);
  write_tokens("b.bin", 20240801, 7, {5, 6, 7, 8, 70000}, 4);
  const TokenDataset data({at("a.bin"), at("b.bin")}, 3, 100000);
  EXPECT_EQ(data.tokens(), 10);
  EXPECT_EQ(data.windows(), 3);
  std::vector<int32_t> window(4);
  data.read_window(1, window);
  EXPECT_EQ(window, (std::vector<int32_t>{3, 4, 5, 6}));
  data.read_window(2, window);
  EXPECT_EQ(window, (std::vector<int32_t>{6, 7, 8, 70000}));
  const TokenDataset small({at("a.bin"), at("b.bin")}, 3, 60000);
  EXPECT_THROW(small.read_window(2, window), Error);
  EXPECT_THROW(TokenDataset({at("a.bin")}, 5, 100), Error);
}

TEST(WindowSampler, AnEpochIsAPermutationWithoutTheIncompleteBatch) {
  const WindowSampler sampler(10, 3, true, 42);
  EXPECT_EQ(sampler.steps_per_epoch(), 3);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<int64_t> seen;
    for (int64_t step = 0; step < 3; ++step) {
      for (int64_t i = 0; i < 3; ++i) seen.insert(sampler.window(epoch * 3 + step, i));
    }
    EXPECT_EQ(seen.size(), 9U);
    EXPECT_GE(*seen.begin(), 0);
    EXPECT_LT(*seen.rbegin(), 10);
  }
  const WindowSampler plain(10, 3, false, 42);
  EXPECT_EQ(plain.window(2, 2), 8);
  EXPECT_EQ(plain.window(3, 0), 0);
}

TEST(Json, RefusesKeysTwiceAndDeepNests) {
  EXPECT_THROW(parse_json("{\"a\":1,\"a\":2}", "x.json", {1024, 8}), Error);
  EXPECT_THROW(parse_json(std::string(100, '['), "x.json", {1024, 8}), Error);
  EXPECT_THROW(parse_json("{\"a\":" + std::string(2000, ' ') + "1}", "x.json", {1024, 8}), Error);
  EXPECT_EQ(parse_json("{\"a\":[1]}", "x.json", {1024, 8})["a"][0], 1);
}

}  // namespace
}  // namespace hetmem
