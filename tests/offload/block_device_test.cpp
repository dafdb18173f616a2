#include "offload/block_device.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/fault_plan.h"
#include "device/cpu/memory_guard.h"
#include "device/tier.h"
#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

constexpr int kDepth = 4;
constexpr int64_t kBytes = kDepth * kBlockBytes;

class BlockDevices : public testing::TestWithParam<BlockBackend> {
 protected:
  void SetUp() override {
    if (GetParam() == BlockBackend::kIoUring && try_io_uring() != 0) {
      GTEST_SKIP() << "io_uring: " << std::strerror(try_io_uring());
    }
    file_ = std::make_unique<BlockFile>(BlockFile::create(folder_.path() + "/f", 4 * kBytes));
    device_ = make_block_device(GetParam(), *file_, kDepth, memory_.data(), kBytes);
  }
  char* block(int index) { return static_cast<char*>(memory_.data()) + index * kBlockBytes; }
  BlockRequest request(BlockRequest::Kind kind, int index, int64_t offset) {
    return {kind, block(index), offset, kBlockBytes};
  }

  TemporaryFolder folder_;
  Tier host_{"host", 1 << 20};
  Buffer memory_{host_, kBytes, MemoryKind::kStaging, MemorySpace::kHost};
  std::unique_ptr<BlockFile> file_;
  std::unique_ptr<BlockDevice> device_;
};

TEST_P(BlockDevices, WhatIsReadIsWhatWasWritten) {
  const std::vector<char> sent = random_payload(kBytes, 1);
  std::memcpy(memory_.data(), sent.data(), sent.size());
  for (int i = 0; i < kDepth; ++i) {
    device_->start(i, request(BlockRequest::Kind::kWrite, i, 2 * i * kBlockBytes));
  }
  for (int i = kDepth - 1; i >= 0; --i) EXPECT_EQ(device_->wait(i), kBlockBytes);
  for (int i = 0; i < kDepth; ++i) {
    const std::vector<char> part(sent.begin() + i * kBlockBytes,
                                 sent.begin() + (i + 1) * kBlockBytes);
    EXPECT_EQ(bytes_on_disk(file_->path(), 2 * i * kBlockBytes, kBlockBytes), part);
  }
  std::memset(memory_.data(), 0, kBytes);
  for (int i = 0; i < kDepth; ++i) {
    device_->start(i, request(BlockRequest::Kind::kRead, i, 2 * i * kBlockBytes));
  }
  for (const int i : {2, 0, 3, 1}) EXPECT_EQ(device_->wait(i), kBlockBytes);
  EXPECT_EQ(std::memcmp(memory_.data(), sent.data(), sent.size()), 0);
  EXPECT_EQ(device_->wait(0), kBlockBytes);  // again: the result stays
}

TEST_P(BlockDevices, AReadStopsWhereTheFileEnds) {
  const int64_t end = 4 * kBytes;
  device_->start(0, {BlockRequest::Kind::kRead, block(0), end - kBlockBytes, 2 * kBlockBytes});
  device_->start(2, request(BlockRequest::Kind::kRead, 2, end));
  EXPECT_EQ(device_->wait(0), kBlockBytes);
  EXPECT_EQ(device_->wait(2), 0);
}

TEST_P(BlockDevices, AnErrorIsTheResultOfItsRequestAlone) {
  device_->start(0, {BlockRequest::Kind::kRead, nullptr, 0, kBlockBytes});
  device_->start(1, request(BlockRequest::Kind::kRead, 1, 0));
  EXPECT_EQ(device_->wait(0), -EFAULT);
  EXPECT_EQ(device_->wait(1), kBlockBytes);
  device_->start(0, request(BlockRequest::Kind::kRead, 0, 0));
  EXPECT_EQ(device_->wait(0), kBlockBytes);
}

TEST_P(BlockDevices, WhatMovesLessIsAskedForAgain) {
  const std::vector<char> sent = random_payload(kBytes, 2);
  std::memcpy(memory_.data(), sent.data(), sent.size());
  const FaultPlan::Session faults(
      "disk.write:1+=short;disk.read:1+=short;disk.write:2=EINTR;disk.read:1=EINTR");
  device_->start(1, {BlockRequest::Kind::kWrite, block(0), kBlockBytes, kBytes});
  EXPECT_EQ(device_->wait(1), kBytes);
  EXPECT_EQ(bytes_on_disk(file_->path(), kBlockBytes, kBytes), sent);
  std::memset(memory_.data(), 0, kBytes);
  device_->start(0, {BlockRequest::Kind::kRead, block(0), kBlockBytes, kBytes});
  EXPECT_EQ(device_->wait(0), kBytes);
  EXPECT_EQ(std::memcmp(memory_.data(), sent.data(), sent.size()), 0);
  // Four blocks go as two, one and one.
  EXPECT_GE(faults.fired(), 2 * 3);
}

TEST_P(BlockDevices, AFaultIsTheResultOfItsRequestAlone) {
  std::memset(memory_.data(), 7, kBytes);
  const FaultPlan::Session faults("disk.write@/f:2=ENOSPC;disk.read@/f:1=EIO");
  for (int i = 0; i < 3; ++i) {
    device_->start(i, request(BlockRequest::Kind::kWrite, i, i * kBlockBytes));
  }
  // Threads may take them in another order.
  std::vector<int64_t> results{device_->wait(0), device_->wait(1), device_->wait(2)};
  std::sort(results.begin(), results.end());
  EXPECT_EQ(results, (std::vector<int64_t>{-ENOSPC, kBlockBytes, kBlockBytes}));
  device_->start(0, request(BlockRequest::Kind::kRead, 0, 0));
  EXPECT_EQ(device_->wait(0), -EIO);
  device_->start(0, request(BlockRequest::Kind::kRead, 0, 0));
  EXPECT_EQ(device_->wait(0), kBlockBytes);
  EXPECT_EQ(faults.fired(), 2);
}

TEST_P(BlockDevices, AWriteThatIsLostLeavesWhatWasThere) {
  for (const char value : {1, 2}) {
    const FaultPlan::Session faults(value == 2 ? "disk.write:1=stale" : "");
    std::memset(block(0), value, kBlockBytes);
    device_->start(0, request(BlockRequest::Kind::kWrite, 0, kBlockBytes));
    EXPECT_EQ(device_->wait(0), kBlockBytes);
  }
  EXPECT_EQ(bytes_on_disk(file_->path(), kBlockBytes, kBlockBytes),
            std::vector<char>(kBlockBytes, 1));
}

TEST_P(BlockDevices, OneBitFlipsOnTheWay) {
  const auto bits_set = [](const std::vector<char>& bytes) {
    int bits = 0;
    for (const char byte : bytes) bits += __builtin_popcount(static_cast<unsigned char>(byte));
    return bits;
  };
  std::memset(memory_.data(), 0, kBytes);
  {
    const FaultPlan::Session faults("disk.write:1=flip");
    device_->start(0, request(BlockRequest::Kind::kWrite, 0, 0));
    EXPECT_EQ(device_->wait(0), kBlockBytes);
  }
  EXPECT_EQ(bits_set(bytes_on_disk(file_->path(), 0, kBlockBytes)), 1);
  const FaultPlan::Session faults("disk.read:1=flip");
  device_->start(1, request(BlockRequest::Kind::kRead, 1, kBlockBytes));
  EXPECT_EQ(device_->wait(1), kBlockBytes);
  EXPECT_EQ(bits_set(std::vector<char>(block(1), block(2))), 1);
}

TEST_P(BlockDevices, ADeviceThatGoesWaitsForWhatIsUnderWay) {
  std::memset(memory_.data(), 7, kBytes);
  for (int i = 0; i < kDepth; ++i) {
    device_->start(i, request(BlockRequest::Kind::kWrite, i, i * kBlockBytes));
  }
  device_.reset();
  EXPECT_EQ(bytes_on_disk(file_->path(), 0, kBytes), std::vector<char>(kBytes, 7));
}

INSTANTIATE_TEST_SUITE_P(Backends, BlockDevices,
                         testing::Values(BlockBackend::kIoUring, BlockBackend::kThreads),
                         [](const auto& way) { return std::string(name_of(way.param)); });

TEST(BlockFile, TakesItsSpaceAtOnceAndIsPrivate) {
  const TemporaryFolder folder;
  const BlockFile file = BlockFile::create(folder.path() + "/f", 1 << 20);
  struct stat info {};
  ASSERT_EQ(::stat(file.path().c_str(), &info), 0);
  EXPECT_EQ(info.st_size, 1 << 20);
  EXPECT_GE(info.st_blocks * 512, 1 << 20);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  EXPECT_TRUE(contains(
      error_of(ErrorKind::kStorage, [&] { BlockFile::create(folder.path() + "/f", 4096); }),
      "File exists"));
}

TEST(BlockFile, MoreThanIsFreeIsRefusedBeforeTheDiskIsFull) {
  const TemporaryFolder folder;
  const std::string message = error_of(
      ErrorKind::kStorage, [&] { BlockFile::create(folder.path() + "/f", int64_t{1} << 50); });
  for (const char* part : {"1024.0 TiB", "free", "--disk-memory", folder.path().c_str()}) {
    EXPECT_TRUE(contains(message, part)) << message;
  }
  struct stat info {};
  ASSERT_EQ(::stat((folder.path() + "/f").c_str(), &info), 0);
  EXPECT_EQ(info.st_size, 0);
}

TEST(BlockFile, SpaceThatIsNotThereIsRefused) {
  struct Case {
    const char* fault;
    const char* text;
  };
  for (const Case& one : {Case{"disk.reserve:1=ENOSPC", "--disk-memory"},
                          Case{"disk.reserve:1=EDQUOT", "--disk-memory"},
                          Case{"disk.reserve:1=EIO", "Input/output error"},
                          Case{"disk.create:1=ENOSPC", "No space left"}}) {
    const TemporaryFolder folder;
    const FaultPlan::Session faults(one.fault);
    const std::string message =
        error_of(ErrorKind::kStorage, [&] { BlockFile::create(folder.path() + "/f", 1 << 20); });
    EXPECT_TRUE(contains(message, one.text)) << message;
    EXPECT_TRUE(contains(message, folder.path())) << message;
  }
  const TemporaryFolder folder;
  const FaultPlan::Session faults("disk.reserve:1=EINTR;disk.direct:1=EINVAL");
  EXPECT_FALSE(BlockFile::create(folder.path() + "/f", 1 << 20).direct());
  EXPECT_EQ(faults.fired(), 2);
}

TEST(BlockBackendChoice, IsThreadsWhereNoRingIsAllowed) {
  const FaultPlan::Session faults("disk.ring:1=EMFILE");
  const BlockBackendChoice choice = choose_block_backend();
  EXPECT_EQ(choice.backend, BlockBackend::kThreads);
  EXPECT_EQ(choice.reason, std::string("io_uring: ") + std::strerror(EMFILE));
}

TEST(BlockBackendChoice, IsIoUringWhereItIsAllowedAndSaysWhyElse) {
  const BlockBackendChoice choice = choose_block_backend();
  const int code = try_io_uring();
  if (code == 0 && !MemoryGuard::enabled()) {
    EXPECT_EQ(choice.backend, BlockBackend::kIoUring);
    EXPECT_EQ(choice.reason, "");
  } else {
    EXPECT_EQ(choice.backend, BlockBackend::kThreads);
    EXPECT_NE(choice.reason, "");
  }
  const MemoryGuard::Session guard;
  EXPECT_EQ(choose_block_backend().backend, BlockBackend::kThreads);
}

}  // namespace
}  // namespace hetmem
