#include "io/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <csignal>
#include <filesystem>
#include <functional>
#include <set>
#include <stdexcept>
#include <vector>

#include "core/error.h"
#include "core/fault_plan.h"
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

ErrorKind kind_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.kind();
  }
  throw std::logic_error("no error");
}

// The message of what is refused as bad input.
std::string refusal_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
    return error.what();
  }
  return "";
}

TEST_F(Files, ADirectoryReplacesNothingElse) {
  write_text_file(at("file"), "mine");
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  fs::create_symlink("file", at("to-file"));
  fs::create_symlink("none", at("to-nothing"));
  fs::create_symlink("loop", at("loop"));
  const std::map<std::string, std::string> kinds{{"file", "a file"},
                                                 {"pipe", "a pipe"},
                                                 {"to-file", "a file"},
                                                 {"to-nothing", "leads nowhere"},
                                                 {"loop", "leads nowhere"}};
  for (const auto& kind : kinds) {
    const std::string path = at(kind.first);
    const std::string said = refusal_of([&] { AtomicDirectory(path).commit(); });
    EXPECT_NE(said.find(path), std::string::npos) << said;
    EXPECT_NE(said.find(kind.second), std::string::npos) << said;
  }
  EXPECT_EQ(read_text_file(at("file")), "mine");
  EXPECT_TRUE(fs::is_fifo(at("pipe")));
  EXPECT_TRUE(fs::is_symlink(at("to-file")));
  EXPECT_NE(refusal_of([] { const AtomicDirectory none(""); }).find("empty"), std::string::npos);
  EXPECT_EQ(entries(), kinds.size());
}

TEST_F(Files, ADirectoryDoesNotReplaceADevice) {
  const dev_t null = makedev(1, 3);
  if (::mknod(at("device").c_str(), S_IFCHR | 0600, null) != 0) GTEST_SKIP() << "no mknod";
  const std::string said = refusal_of([&] { AtomicDirectory(at("device")).commit(); });
  EXPECT_NE(said.find("a device"), std::string::npos) << said;
  EXPECT_NE(refusal_of([&] { write_text_file(at("device"), "x"); }), "");
  EXPECT_TRUE(fs::is_character_file(at("device")));
  EXPECT_EQ(entries(), 1U);
}

TEST_F(Files, AFileThatCameToBeThereIsNotReplaced) {
  AtomicDirectory directory(at("out"));
  write_text_file(at("out"), "mine");
  EXPECT_EQ(kind_of([&] { directory.commit(); }), ErrorKind::kStorage);
  EXPECT_EQ(read_text_file(at("out")), "mine");
}

TEST_F(Files, WhatALinkLeadsToIsWritten) {
  fs::create_directory(at("there"));
  fs::create_directory(at("there/folder"));
  fs::create_symlink("there/folder", at("link"));
  write_text_file(at("there/file"), "old");
  fs::create_symlink(at("there/file"), at("file"));
  AtomicDirectory directory(at("link/"));
  write_text_file(directory.path() + "/a", "1");
  directory.commit();
  write_text_file(at("file"), "new");
  EXPECT_TRUE(fs::is_symlink(at("link")));
  EXPECT_TRUE(fs::is_symlink(at("file")));
  EXPECT_EQ(read_text_file(at("there/folder/a")), "1");
  EXPECT_EQ(read_text_file(at("there/file")), "new");
  EXPECT_EQ(entries(), 3U);
}

TEST_F(Files, ATextReplacesFilesAlone) {
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  fs::create_symlink("none", at("to-nothing"));
  fs::create_directory(at("folder"));
  for (const char* name : {"pipe", "to-nothing", "folder"}) {
    EXPECT_NE(refusal_of([&] { write_text_file(at(name), "x"); }), "") << name;
  }
  EXPECT_TRUE(fs::is_fifo(at("pipe")));
  EXPECT_TRUE(fs::is_symlink(at("to-nothing")));
  EXPECT_EQ(entries(), 3U);
}

TEST_F(Files, CallsThatMoveLessOrAreInterruptedGoOn) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += std::to_string(i);
  {
    const FaultPlan::Session faults("file.write:1+=short;file.write:3=EINTR");
    File file = File::create(at("f"));
    file.write(0, text.data(), static_cast<int64_t>(text.size()));
    EXPECT_GT(faults.fired(), 10);  // halves of what is left
  }
  EXPECT_EQ(read_text_file(at("f")), text);
  const FaultPlan::Session faults("file.read:1+=short;file.read:2=EINTR");
  EXPECT_EQ(read_text_file(at("f")), text);
  EXPECT_GT(faults.fired(), 10);
}

TEST_F(Files, WhatTheSystemRefusesIsAStorageErrorWithItsName) {
  write_text_file(at("f"), "old");
  for (const char* fault :
       {"file.create:1=ENOSPC", "file.create:1=EIO", "file.write:1=ENOSPC", "file.write:1=EDQUOT",
        "file.write:1=EIO", "file.sync:1=EIO", "file.rename:1=EIO"}) {
    const FaultPlan::Session faults(fault);
    EXPECT_EQ(kind_of([&] { write_text_file(at("f"), "new"); }), ErrorKind::kStorage) << fault;
    EXPECT_EQ(read_text_file(at("f")), "old") << fault;
  }
  for (const char* fault : {"file.open:1=EIO", "file.read:1=EIO", "file.open:1=EMFILE"}) {
    const FaultPlan::Session faults(fault);
    try {
      read_text_file(at("f"));
      FAIL() << fault;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kStorage);
      EXPECT_NE(std::string(error.what()).find(at("f")), std::string::npos) << error.what();
    }
  }
  write_text_file(at("f"), "new");
  EXPECT_EQ(read_text_file(at("f")), "new");
}

// As the kernel sees it.
int64_t bytes_in_page_cache(const std::string& path) {
  const int64_t bytes = static_cast<int64_t>(fs::file_size(path));
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const auto size = static_cast<size_t>(bytes);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> present(static_cast<size_t>((bytes + page - 1) / page));
  mincore(mapped, size, present.data());
  munmap(mapped, size);
  close(descriptor);
  return page * std::count_if(present.begin(), present.end(), [](auto p) { return (p & 1) != 0; });
}

TEST_F(Files, WhatIsAppendedArrivesAndLeavesThePageCache) {
  constexpr int64_t kMiB = 1 << 20;
  std::vector<uint32_t> numbers(static_cast<size_t>(50 * kMiB / 4 + 3));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<uint32_t>(i);
  const auto bytes = static_cast<int64_t>(numbers.size() * 4);
  const auto* from = reinterpret_cast<const char*>(numbers.data());
  {
    File first = File::create(at("f"));
    first.append(from, 5 * kMiB + 1);
    File file = std::move(first);  // goes on where it was
    for (int64_t done = 5 * kMiB + 1, piece = 1; done < bytes; done += piece) {
      piece = std::min({bytes - done, 3 * piece, kMiB});
      file.append(from + done, piece);
    }
    file.sync();
  }
  struct statfs system {};
  ASSERT_EQ(statfs(folder_.c_str(), &system), 0);
  constexpr int64_t kTmpfs = 0x01021994;  // statfs(2): there is nothing below its page cache
  if (static_cast<int64_t>(system.f_type) != kTmpfs) {
    EXPECT_LT(bytes_in_page_cache(at("f")), 26 * kMiB);  // five parts and a piece
  }
  std::vector<uint32_t> back(numbers.size());
  const File reader = File::open_for_reading(at("f"));
  ASSERT_EQ(reader.size(), bytes);
  reader.read(0, back.data(), bytes);
  EXPECT_EQ(back, numbers);
}

TEST_F(Files, WhatCannotGoToTheDiskWhileMoreIsAppendedIsAStorageError) {
  const std::vector<char> part(size_t{4} << 20);
  for (const char* plan : {"file.sync@part:1=EIO", "file.sync@part:9=ENOSPC"}) {
    File file = File::create(at("part"));
    const FaultPlan::Session faults(plan);
    const auto append_all = [&] {
      for (int i = 0; i < 9; ++i) file.append(part.data(), static_cast<int64_t>(part.size()));
    };
    try {
      append_all();
      FAIL() << plan;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kStorage);
      EXPECT_NE(std::string(error.what()).find(at("part")), std::string::npos) << error.what();
    }
  }
}

TEST_F(Files, ABitThatFlipsIsOneBit) {
  const std::string zeros(1000, '\0');
  const auto ones = [](const std::string& text) {
    int count = 0;
    for (const char c : text) count += std::popcount(static_cast<unsigned char>(c));
    return count;
  };
  {
    const FaultPlan::Session faults("file.write@/f:1=flip");
    write_text_file(at("f"), zeros);
  }
  EXPECT_EQ(ones(read_text_file(at("f"))), 1);
  const FaultPlan::Session faults("file.read@/f:1=flip");
  EXPECT_NE(ones(read_text_file(at("f"))), 1);
}

// Whatever fails on the way, the old folder or the new one is there, whole, and nothing else.
TEST_F(Files, ADirectoryThatCannotBeReplacedStays) {
  const auto fill = [&](const std::string& text) {
    AtomicDirectory directory(at("out"));
    write_text_file(directory.path() + "/a", text);
    directory.commit();
  };
  fill("old");
  int failed = 0;
  for (const char* site : {"file.sync", "file.rename@/out", "file.open"}) {
    for (int call = 1;; ++call) {
      bool threw = false;
      {
        const FaultPlan::Session faults(std::string(site) + ":" + std::to_string(call) + "=EIO");
        try {
          fill("new");
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kStorage);
          threw = true;
          ++failed;
        }
        EXPECT_EQ(threw, faults.fired() > 0);
      }
      const std::string found = read_text_file(at("out") + "/a");
      EXPECT_TRUE(found == "old" || found == "new");
      EXPECT_EQ(entries(), 1U);
      if (!threw) break;
      fill("old");
    }
  }
  EXPECT_GT(failed, 8);
}

// A file system that cannot exchange two names: the fifth renaming is the exchange, and the seventh
// takes the new folder to its place.
TEST_F(Files, ADirectoryIsReplacedWithoutAnExchangeOfNames) {
  const auto fill = [&](const std::string& text) {
    AtomicDirectory directory(at("out"));
    write_text_file(directory.path() + "/a", text);
    directory.commit();
  };
  for (const char* rest : {"", ";file.rename@/out:6=EIO", ";file.rename@/out:7=EIO"}) {
    fs::remove_all(at("out"));
    const FaultPlan::Session faults(std::string("file.rename@/out:5=EINVAL") + rest);
    fill("old");
    if (*rest == '\0') {
      fill("new");
    } else {
      EXPECT_THROW(fill("new"), Error);
      EXPECT_EQ(faults.fired(), 2);
    }
    EXPECT_EQ(read_text_file(at("out") + "/a"), *rest == '\0' ? "new" : "old");
    EXPECT_EQ(entries(), 1U);
  }
}

// Runs `action` in a process that ends by SIGKILL in the middle of it.
pid_t kill_in(const std::function<void()>& action) {
  const pid_t child = fork();
  if (child == 0) {
    action();
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
  return child;
}

// What this process calls its temporary of "NAME", without the "NAME".
std::string own_suffix(const std::string& folder) {
  const AtomicDirectory directory(folder + "/x");
  return directory.path().substr(folder.size() + 2);
}

TEST_F(Files, TemporariesOfProcessesThatAreNoMoreAreRemoved) {
  const pid_t child = kill_in([&] {
    const AtomicDirectory directory(at("killed"));
    kill(getpid(), SIGKILL);
  });
  const std::string own = own_suffix(folder_.string());
  ASSERT_EQ(own.rfind(".tmp-" + std::to_string(getpid()) + "-", 0), 0U);
  const std::string other = own + "0";  // our number, but started at another time
  // What is no such name, what is no folder, and what belongs to a process that runs.
  const std::set<std::string> stay{"running" + own,
                                   "a.tmp-",
                                   "a.tmp-x1",
                                   "a.tmp-" + std::to_string(child),
                                   "a.tmp-1x",
                                   own,
                                   "a.tmp--1-2",
                                   "a.tmp-" + std::to_string(child) + "-012",
                                   "a.tmp-99999999999-1",
                                   "a.tmp-1-"};
  for (const std::string& name : stay) fs::create_directory(at(name));
  for (const std::string& name : {"ended" + other, "gone.old-" + other.substr(5)}) {
    fs::create_directory(at(name));
  }
  fs::create_directory(at("gone"));
  write_text_file(at("file" + other), "");
  EXPECT_EQ(entries(), stay.size() + 5);
  AtomicDirectory::remove_abandoned(folder_.string());
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder_)) left.insert(entry.path().filename());
  std::set<std::string> expected = stay;
  expected.insert({"gone", "file" + other});
  EXPECT_EQ(left, expected);
}

// Where names cannot be exchanged: neither of the two has its name when the process is killed.
TEST_F(Files, AFolderThatHadGivenWayToNoneGetsItsNameBack) {
  const auto fill = [&](const std::string& text) {
    AtomicDirectory directory(at("out"));
    write_text_file(directory.path() + "/a", text);
    directory.commit();
  };
  for (const bool whole : {true, false}) {
    fs::remove_all(at("out"));
    kill_in([&] {
      fill("old");
      const FaultPlan::Session faults("file.rename@/out:3=EINVAL;directory.moved:1=kill");
      fill("new");
    });
    ASSERT_FALSE(fs::exists(at("out")));
    ASSERT_EQ(entries(), 2U);
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const bool is_new = entry.path().string().find(".tmp-") != std::string::npos;
      if (is_new && !whole) fs::remove_all(entry.path());
    }
    AtomicDirectory::remove_abandoned(folder_.string());
    EXPECT_EQ(read_text_file(at("out") + "/a"), whole ? "new" : "old");
    EXPECT_EQ(entries(), 1U);
  }
}

TEST_F(Files, AFolderThatIsGoneBeforeItAppearsIsAStorageError) {
  AtomicDirectory directory(at("out"));
  fs::remove_all(directory.path());
  EXPECT_EQ(kind_of([&] { directory.commit(); }), ErrorKind::kStorage);
}

// Each of those above that are made is synced in its parent: one that fails leaves nothing.
TEST_F(Files, FoldersThatAreMadeStay) {
  for (const int call : {1, 2, 3}) {
    const FaultPlan::Session faults("file.sync:" + std::to_string(call) + "=EIO");
    EXPECT_EQ(kind_of([&] { make_folders(at("a/b/c")); }), ErrorKind::kStorage) << call;
    EXPECT_EQ(entries(), 0U) << call;
  }
  const FaultPlan::Session faults("file.sync:4=EIO");
  make_folders(at("a/b/c"));
  EXPECT_TRUE(fs::is_directory(at("a/b/c")));
  make_folders(at("a/b/c"));
  EXPECT_EQ(faults.fired(), 0);
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
