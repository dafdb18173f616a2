#include "offload/block_device.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

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
