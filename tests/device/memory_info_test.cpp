#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "device/tier.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = int64_t{1} << 20;

// A root folder with the files that say how much memory there is: 1 GiB available.
class AvailableMemory : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "hetmem-root-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    write("proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable:    1048576 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void write(const std::string& file, int64_t number) const {
    write(file, std::to_string(number) + "\n");
  }

  void version2(const std::string& group) const {
    write("proc/self/cgroup", "0::" + group + "\n");
    write("proc/self/mountinfo",
          "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  // `shown` is the group that the mount has as its root.
  void version1(const std::string& group, const std::string& shown) const {
    write("proc/self/cgroup",
          "5:devices:" + group + "\n4:memory,hugetlb:" + group + "\n1:name=memory:/wrong\n0::/\n");
    write("proc/self/mountinfo",
          "34 31 0:31 " + shown + " /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
              "35 31 0:32 " + shown + " /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
              "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  }
  void version1_limit(const std::string& folder, int64_t limit, int64_t usage) const {
    write(folder + "/memory.limit_in_bytes", limit);
    write(folder + "/memory.usage_in_bytes", usage);
  }
  int64_t available() const { return available_memory(root_.string()); }

  fs::path root_;
};

TEST_F(AvailableMemory, IsWhatTheKernelSaysWithoutGroups) { EXPECT_EQ(available(), 1024 * kMiB); }

TEST_F(AvailableMemory, Version2LimitsAtEveryLevel) {
  version2("/a/b");
  write("sys/fs/cgroup/a/b/memory.max", "max\n");
  write("sys/fs/cgroup/a/b/memory.high", "max\n");
  write("sys/fs/cgroup/a/b/memory.current", 10 * kMiB);
  EXPECT_EQ(available(), 1024 * kMiB);

  write("sys/fs/cgroup/a/memory.max", 500 * kMiB);  // the level above
  write("sys/fs/cgroup/a/memory.current", 100 * kMiB);
  EXPECT_EQ(available(), 400 * kMiB);

  write("sys/fs/cgroup/a/b/memory.max", 300 * kMiB);  // the own one
  EXPECT_EQ(available(), 290 * kMiB);

  write("sys/fs/cgroup/memory.max", 200 * kMiB);  // the root of a container's name space
  write("sys/fs/cgroup/memory.current", 150 * kMiB);
  EXPECT_EQ(available(), 50 * kMiB);
}

TEST_F(AvailableMemory, Version2HighIsALimitToo) {
  version2("/a");
  write("sys/fs/cgroup/a/memory.max", 500 * kMiB);
  write("sys/fs/cgroup/a/memory.high", 400 * kMiB);
  write("sys/fs/cgroup/a/memory.current", 100 * kMiB);
  EXPECT_EQ(available(), 300 * kMiB);
}

TEST_F(AvailableMemory, PageCacheThatIsGivenBackDoesNotCount) {
  version2("/a");
  write("sys/fs/cgroup/a/memory.max", 500 * kMiB);
  write("sys/fs/cgroup/a/memory.current", 450 * kMiB);
  write("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file " + std::to_string(300 * kMiB) +
                                           "\nactive_file " + std::to_string(100 * kMiB) + "\n");
  EXPECT_EQ(available(), 350 * kMiB);
}

TEST_F(AvailableMemory, AGroupAboveItsLimitLeavesNothing) {
  version2("/a");
  write("sys/fs/cgroup/a/memory.high", 100 * kMiB);
  write("sys/fs/cgroup/a/memory.current", 120 * kMiB);
  EXPECT_EQ(available(), 0);
}

TEST_F(AvailableMemory, Version1LimitsAtEveryLevel) {
  version1("/a/b", "/");
  constexpr int64_t kNoLimit = 9223372036854771712;  // what version 1 says
  version1_limit("sys/fs/cgroup/memory", kNoLimit, 2000 * kMiB);
  version1_limit("sys/fs/cgroup/memory/a/b", kNoLimit, 100 * kMiB);
  version1_limit("sys/fs/cgroup/memory/wrong", 1 * kMiB, 1 * kMiB);
  EXPECT_EQ(available(), 1024 * kMiB);

  version1_limit("sys/fs/cgroup/memory/a", 500 * kMiB, 200 * kMiB);
  EXPECT_EQ(available(), 300 * kMiB);

  version1_limit("sys/fs/cgroup/memory/a/b", 300 * kMiB, 100 * kMiB);
  EXPECT_EQ(available(), 200 * kMiB);
  write("sys/fs/cgroup/memory/a/b/memory.stat",
        "inactive_file 7\ntotal_inactive_file " + std::to_string(40 * kMiB) + "\n");
  EXPECT_EQ(available(), 240 * kMiB);
}

TEST_F(AvailableMemory, AContainersMountShowsItsOwnGroupAsTheRoot) {
  version1("/docker/1234/job", "/docker/1234");
  version1_limit("sys/fs/cgroup/memory/job", 100 * kMiB, 10 * kMiB);
  EXPECT_EQ(available(), 90 * kMiB);
  version1_limit("sys/fs/cgroup/memory", 200 * kMiB, 150 * kMiB);
  EXPECT_EQ(available(), 50 * kMiB);
}

TEST(MemoryInfo, IsPlausible) {
  EXPECT_GT(available_memory(), 0);
  EXPECT_GT(resident_bytes(), 0);
  EXPECT_GE(peak_resident_bytes(), resident_bytes() / 2);
}

}  // namespace
}  // namespace hetmem
