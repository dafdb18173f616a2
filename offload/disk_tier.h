// DiskTier: chunks that leave memory for disks. Space is taken at the start, within a hard budget,
// in private places of the folders that are given, which are used side by side: each next slot is
// in the next folder. What is read is what was written, or an Error names the chunk: every slot has
// a trailer with the run, the chunk, its generation, its length and a digest, checked on every
// read.
//
//   DiskTier disk({.folders = {"/nvme0", "/nvme1"}, .budget = 64 << 30}, host);
//   const DiskSlot slot = disk.allocate("m of chunk 3", bytes, MemoryKind::kOptimizer);
//   DiskOperation writing = disk.write(slot, data, 7);
//   ...
//   writing.wait();                                  // data may change from here on
//   disk.read(slot, destination, 7).wait();
//
// Thread-safe; a slot has one write at a time, or several reads. Staging memory is reserved in
// `host`, bytes on disk in tier(). Outlives its slots and operations, stays where it is, and leaves
// nothing behind.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "device/tier.h"
#include "offload/block_device.h"
#include "offload/disk_folder.h"
#include "offload/disk_lane.h"
#include "offload/extents.h"
#include "offload/payload_seal.h"

namespace hetmem {

struct DiskOptions {
  std::vector<std::string> folders;
  int64_t budget = 0;                   // bytes on disk, over all folders
  bool encrypt = false;                 // AES-256-GCM, with a key that no one ever sees
  std::optional<BlockBackend> backend;  // the best that this process may use
  int64_t piece_bytes = int64_t{1} << 20;
  int depth = 8;  // pieces under way in each direction of each folder
  // For tests: makes the device of a lane, from what make_block_device() is given.
  std::function<std::unique_ptr<BlockDevice>(const BlockFile&, void*, int64_t)> make_device;
};

// A place on disk, given back when it goes. Move-only.
class DiskSlot {
 public:
  DiskSlot() = default;
  const std::string& name() const;
  int64_t bytes() const;  // of its payload; 0 where there is no place
  // Where it is, for whoever looks at the disk.
  const std::string& path() const;
  int64_t offset() const;

 private:
  friend class DiskTier;
  struct State;
  class Claim;
  explicit DiskSlot(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

// A read or write under way, and the right to its memory. Move-only; the destructor waits for it
// and drops its error.
class DiskOperation {
 public:
  DiskOperation() = default;
  DiskOperation(DiskOperation&&) noexcept = default;
  DiskOperation& operator=(DiskOperation&& other) noexcept;
  ~DiskOperation();
  // Blocks until it is done. Throws Error naming the chunk where it failed (kStorage; kCorrupt
  // where what came back is not what was written): what was read is then worthless, what was
  // written is lost.
  void wait();
  bool done() const;

 private:
  friend class DiskTier;
  explicit DiskOperation(std::shared_ptr<DiskTransfer> transfer) : transfer_(std::move(transfer)) {}
  std::shared_ptr<DiskTransfer> transfer_;
};

class DiskTier {
 public:
  // Throws Error: kBadInput where a folder cannot be used, kStorage where the disk has not the
  // space, kDoesNotFit where `host` has not the staging memory.
  DiskTier(const DiskOptions& options, Tier& host);
  ~DiskTier();
  DiskTier(const DiskTier&) = delete;
  DiskTier& operator=(const DiskTier&) = delete;

  // What `bytes` of payload take on disk, and what a tier takes of host memory.
  static int64_t stored_bytes(int64_t bytes);
  static int64_t staging_bytes(const DiskOptions& options);

  // Throws Error (kDoesNotFit) with what is asked and what is there.
  DiskSlot allocate(const std::string& name, int64_t bytes, MemoryKind kind);
  // Writes all of the slot from `data`, which stays as it is until the operation is done. A slot's
  // generations are not negative and grow: each is written once.
  [[nodiscard]] DiskOperation write(const DiskSlot& slot, const void* data, int64_t generation);
  // Reads all of the slot; `generation` is the one that must be there.
  [[nodiscard]] DiskOperation read(const DiskSlot& slot, void* destination, int64_t generation);

  Tier& tier() { return tier_; }
  // Bytes that the disks have moved so far, trailers and padding included.
  int64_t read_bytes() const;
  int64_t written_bytes() const;
  // "io_uring, direct", "threads, through the page cache (io_uring: Operation not permitted)"
  std::string description() const;

 private:
  friend class DiskSlot;
  friend struct DiskSlot::State;
  struct Folder;
  std::shared_ptr<DiskTransfer> begin(const DiskSlot& slot, BlockRequest::Kind kind, char* memory,
                                      int64_t generation);
  DiskLane& lane(size_t folder, BlockRequest::Kind kind);
  std::unique_ptr<DiskLane> make_lane(const DiskOptions& options, const BlockFile& file,
                                      char* staging);
  std::unique_ptr<BlockDevice> make_device(const DiskOptions& options, const BlockFile& file,
                                           char* staging);

  Tier tier_;
  const RunId run_ = make_run_id();
  const std::unique_ptr<SealKey> key_;
  BlockBackendChoice backend_;
  Buffer staging_;
  std::mutex mutex_;  // of what follows, but for the lanes
  uint64_t next_chunk_ = 0;
  size_t next_folder_ = 0;
  std::vector<std::unique_ptr<Folder>> folders_;  // last: their lanes finish what is under way
};

}  // namespace hetmem
