// The folder of a run that is given up goes again, wherever the process has gone meanwhile.
#include "runtime/output_folder.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <vector>

#include "io/file.h"
#include "io/text_data.h"
#include "runtime/training_run.h"
#include "tests/runtime/tiny_models.h"
#include "tests/temporary_folder.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

// Back to where the process was.
struct WorkingFolder {
  explicit WorkingFolder(const fs::path& folder) { fs::current_path(folder); }
  ~WorkingFolder() { fs::current_path(before); }
  const fs::path before = fs::current_path();
};

TEST(OutputFolder, IsTheSamePlaceFromElsewhere) {
  const TemporaryFolder here;
  const TemporaryFolder there;
  const WorkingFolder in_here(here.path());
  fs::create_directories(fs::path(there.path()) / "runs" / "o");
  TrainConfig config;
  config.out = "runs/o";
  {
    OutputLock lock;
    const OutputFolder folder(config, false, lock);
    EXPECT_EQ(folder.name(), "runs/o");
    EXPECT_EQ(folder.path(), here.path() + "/runs/o");
    EXPECT_TRUE(fs::exists("runs/o"));
    fs::current_path(there.path());
  }
  EXPECT_TRUE(here.entries().empty());
  EXPECT_TRUE(fs::exists("runs/o"));
}

// Whoever is told of a step takes the process elsewhere.
TEST(OutputFolder, ARunStaysWhereItBegan) {
  const TemporaryFolder here;
  const TemporaryFolder there;
  const WorkingFolder in_here(here.path());
  fs::create_directory("m");
  write_text_file("m/config.json", tiny_model(tiny_models().front().first));
  write_text_file("m/tokenizer.json", "{}");
  TokenFileWriter data("d.bin", 7);
  data.append(std::vector<int32_t>(200, 3));
  data.finish();
  TrainConfig config;
  config.model = "m";
  config.from_scratch = true;
  config.data = {"d.bin"};
  config.out = "o";
  config.trace = "t.json";
  config.sequence_length = 8;
  config.batch_size = 1;
  config.steps = 2;
  config.save_steps = 1;
  config.device = "cpu";
  const std::atomic<bool> stop{false};
  const RunResult result = run_training(
      config, [&](const RunProgress&) { fs::current_path(there.path()); },
      [](const std::string&) {}, stop);
  EXPECT_EQ(result.out, "o");
  EXPECT_TRUE(there.entries().empty());
  fs::current_path(here.path());
  EXPECT_TRUE(fs::exists("t.json") && fs::exists("o/checkpoint-2"));
  EXPECT_TRUE(fs::exists("o/final/tokenizer.json"));
  const std::string yaml = read_text_file("o/config.yaml");
  for (const char* line : {"model: m\n", "out: o\n", "trace: t.json\n", "  - d.bin\n"}) {
    EXPECT_NE(yaml.find(line), std::string::npos) << line << yaml;
  }
}

}  // namespace
}  // namespace hetmem
