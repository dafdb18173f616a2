#include "offload/disk_folder.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "core/philox.h"
#include "offload/extents.h"
#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBytes = 1 << 16;

// What a run that was killed leaves behind.
void leave_a_folder_behind(const std::string& parent) {
  const pid_t child = ::fork();
  if (child == 0) {
    const auto folder = std::make_unique<DiskFolder>(parent, kBytes);
    ::_exit(0);  // without any destructor
  }
  int status = 1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
}

TEST(DiskFolder, IsPrivateAndLeavesNothingBehind) {
  const TemporaryFolder parent;
  {
    const DiskFolder folder(parent.path(), kBytes);
    ASSERT_EQ(parent.entries().size(), 1U);
    struct stat info {};
    ASSERT_EQ(::stat(fs::path(folder.file().path()).parent_path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700U);
    EXPECT_EQ(fs::file_size(folder.file().path()), static_cast<uintmax_t>(kBytes));
  }
  EXPECT_TRUE(parent.entries().empty());
}

TEST(DiskFolder, WhatADeadOwnerLeftIsRemovedAndALiveOnesIsNot) {
  const TemporaryFolder parent;
  leave_a_folder_behind(parent.path());
  ASSERT_EQ(parent.entries().size(), 1U);
  const std::string dead = parent.entries().front();
  const DiskFolder first(parent.path(), kBytes);
  ASSERT_EQ(parent.entries().size(), 1U);
  EXPECT_NE(parent.entries().front(), dead);
  const DiskFolder second(parent.path(), kBytes);
  EXPECT_EQ(parent.entries().size(), 2U);
  EXPECT_TRUE(fs::exists(first.file().path()));
}

TEST(DiskFolder, OnlyWhatItMakesIsRemoved) {
  const TemporaryFolder parent;
  const TemporaryFolder elsewhere;
  std::ofstream(elsewhere.path() + "/chunks") << "precious";
  fs::create_directory_symlink(elsewhere.path(), parent.path() + "/hetmem-disk-link");
  fs::create_directory(parent.path() + "/hetmem-disk-notes");
  std::ofstream(parent.path() + "/hetmem-disk-notes/note") << "precious";
  fs::create_directory(parent.path() + "/other");
  { const DiskFolder folder(parent.path(), kBytes); }
  EXPECT_TRUE(fs::exists(elsewhere.path() + "/chunks"));
  EXPECT_TRUE(fs::exists(parent.path() + "/hetmem-disk-notes/note"));
  EXPECT_TRUE(fs::exists(parent.path() + "/other"));
}

TEST(DiskFolder, SaysWhatIsWrongWithTheFolder) {
  const TemporaryFolder parent;
  const std::string missing = parent.path() + "/none";
  EXPECT_TRUE(contains(error_of(ErrorKind::kBadInput, [&] { DiskFolder(missing, kBytes); }),
                       "--disk " + missing));
  std::ofstream(parent.path() + "/file") << "";
  error_of(ErrorKind::kBadInput, [&] { DiskFolder(parent.path() + "/file", kBytes); });
  fs::remove(parent.path() + "/file");
  error_of(ErrorKind::kStorage, [&] { DiskFolder(parent.path(), int64_t{1} << 60); });
  EXPECT_TRUE(parent.entries().empty());
}

// First fit against a map of single units: an extent is free, whole and the first that fits.
TEST(Extents, AreWhatAMapOfUnitsSays) {
  constexpr int64_t kUnits = 200;
  Extents extents(kUnits);
  std::vector<bool> taken(kUnits, false);
  std::map<int64_t, int64_t> held;
  const auto first_fit = [&](int64_t bytes) {
    int64_t run = 0;
    for (int64_t i = 0; i < kUnits; ++i) {
      run = taken[static_cast<size_t>(i)] ? 0 : run + 1;
      if (run == bytes) return i - bytes + 1;
    }
    return int64_t{-1};
  };
  const auto mark = [&](int64_t offset, int64_t bytes, bool value) {
    for (int64_t i = offset; i < offset + bytes; ++i) taken[static_cast<size_t>(i)] = value;
  };
  for (uint64_t i = 0; i < 5000; ++i) {
    const auto bits = philox(3, 0, i);
    if (bits[0] % 2 == 0) {
      const int64_t bytes = 1 + bits[1] % 20;
      const int64_t offset = extents.take(bytes);
      ASSERT_EQ(offset, first_fit(bytes));
      if (offset < 0) continue;
      mark(offset, bytes, true);
      held.emplace(offset, bytes);
    } else if (!held.empty()) {
      const auto at = std::next(held.begin(), bits[1] % static_cast<uint32_t>(held.size()));
      extents.give_back(at->first, at->second);
      mark(at->first, at->second, false);
      held.erase(at);
    }
    ASSERT_EQ(extents.free_bytes(), std::count(taken.begin(), taken.end(), false));
    ASSERT_EQ(first_fit(extents.largest_free() + 1), -1);
  }
  for (const auto& [offset, bytes] : held) extents.give_back(offset, bytes);
  EXPECT_EQ(extents.largest_free(), kUnits);
}

}  // namespace
}  // namespace hetmem
