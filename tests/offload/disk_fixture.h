// What tests of the disk tier share: folders of their own, payloads, bytes on disk behind the
// tier's back, and a block device that does what a test says.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "offload/disk_tier.h"
#include "tests/temporary_folder.h"

namespace hetmem {

// Of a tier of 1 MiB whose chunks pass in pieces of a few blocks.
constexpr int64_t kPiece = 2 * kBlockBytes;
DiskOptions small_options(const std::vector<std::string>& folders);

std::vector<char> random_payload(int64_t bytes, uint64_t seed);

std::vector<char> bytes_on_disk(const std::string& path, int64_t offset, int64_t bytes);
void overwrite_on_disk(const std::string& path, int64_t offset, const std::vector<char>& bytes);
void flip_bit_on_disk(const std::string& path, int64_t bit);

// The text of the Error of `kind` that `work` must throw.
template <typename Work>
std::string error_of(ErrorKind kind, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}
bool contains(const std::string& text, const std::string& part);

// A real device whose requests a test sees first: it may hold them up or change what comes back.
class WatchedDevice : public BlockDevice {
 public:
  explicit WatchedDevice(std::unique_ptr<BlockDevice> device) : device_(std::move(device)) {}
  void start(int index, const BlockRequest& request) override { device_->start(index, request); }
  int64_t wait(int index) override { return device_->wait(index); }

 private:
  std::unique_ptr<BlockDevice> device_;
};

}  // namespace hetmem
