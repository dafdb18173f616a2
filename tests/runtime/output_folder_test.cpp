// The folder of a run that is given up goes again, wherever the process has gone meanwhile.
#include "runtime/output_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

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

}  // namespace
}  // namespace hetmem
