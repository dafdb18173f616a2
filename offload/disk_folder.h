// DiskFolder: a private place of one run in a folder that is given: a subfolder that no one else
// may enter (0700), locked for as long as its owner lives, with one file of a fixed size in it.
// What owners that died without cleaning up left in the same folder is removed first.
//
//   DiskFolder folder("/nvme/swap", 1 << 30);
//   make_block_device(backend, folder.file(), ...);
//
// Removes file and subfolder at the end. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "offload/block_device.h"

namespace hetmem {

class DiskFolder {
 public:
  // Throws Error: kBadInput where `parent` is no folder that can be written to, kStorage where the
  // space is not there.
  DiskFolder(const std::string& parent, int64_t bytes);
  ~DiskFolder();
  DiskFolder(const DiskFolder&) = delete;
  DiskFolder& operator=(const DiskFolder&) = delete;
  const BlockFile& file() const { return file_; }
  int64_t bytes() const { return bytes_; }

 private:
  // A folder that is locked and removed at the end, whatever is in it.
  class Private {
   public:
    explicit Private(const std::string& parent);
    ~Private();
    Private(const Private&) = delete;
    Private& operator=(const Private&) = delete;
    const std::string& path() const { return path_; }

   private:
    bool try_make(const std::string& parent);
    std::string path_;
    int lock_ = -1;
  };

  int64_t bytes_;
  Private folder_;
  BlockFile file_;
};

}  // namespace hetmem
