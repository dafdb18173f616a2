// DiskLane: transfers between memory and one file of the disk tier in one direction, in the order
// in which they come, on a thread of its own. Each is cut in pieces that go through a ring of
// staging pieces, so that the disk is busy with the next ones while this thread copies, checks or
// encrypts. A transfer begins before the one ahead of it has ended.
//
// push() from any thread. The destructor finishes what was pushed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/error.h"
#include "offload/block_device.h"
#include "offload/payload_seal.h"

namespace hetmem {

// One payload on its way. Filled in by the disk tier, moved on by a lane, waited for by its owner.
class DiskTransfer {
 public:
  BlockRequest::Kind kind = BlockRequest::Kind::kRead;
  std::string name;        // of the chunk, for messages
  char* memory = nullptr;  // the payload; only read from where it is written to the disk
  int64_t offset = 0;      // in the file
  int64_t stored_bytes = 0;
  SlotTrailer trailer;  // what is written, or expected; without the digest
  std::unique_ptr<PayloadSeal> seal;
  std::shared_ptr<void> claim;  // on the slot; given up before the transfer is seen to be done

  // Blocks until it is done. Throws Error where it failed, each time.
  void wait() const;
  bool done() const;

 private:
  friend class DiskLane;
  void finish();
  int64_t fed_ = 0;        // bytes of its pieces that were started
  int64_t under_way_ = 0;  // pieces
  // Kept as text: an exception that two threads hold may end in either.
  struct Failure {
    ErrorKind kind;
    std::string text;
  };
  std::optional<Failure> failure_;
  mutable std::mutex mutex_;
  mutable std::condition_variable signal_;
  bool done_ = false;
};

class DiskLane {
 public:
  // `staging`: `depth` pieces of `piece_bytes`, those of the device. `file` outlives it.
  DiskLane(const BlockFile& file, std::unique_ptr<BlockDevice> device, char* staging, int depth,
           int64_t piece_bytes);
  ~DiskLane();
  DiskLane(const DiskLane&) = delete;
  DiskLane& operator=(const DiskLane&) = delete;
  void push(std::shared_ptr<DiskTransfer> transfer);
  // Bytes that the disk has moved so far, trailers and padding included.
  int64_t moved_bytes() const { return moved_bytes_.load(); }

 private:
  struct Piece {
    std::shared_ptr<DiskTransfer> transfer;
    int index = 0;      // in the staging memory and of the request
    int64_t begin = 0;  // in what is stored
    int64_t bytes = 0;
  };

  void run();
  std::shared_ptr<DiskTransfer> take(bool block);
  void feed();
  void retire();
  void fill(const Piece& piece) const;
  void drain(const Piece& piece) const;
  void check(const Piece& piece, int64_t moved) const;
  char* staging_of(const Piece& piece) const { return staging_ + piece.index * piece_bytes_; }
  void fail(DiskTransfer& transfer, const std::exception& failure);
  void finish_if_last(DiskTransfer& transfer) const;

  const BlockFile& file_;
  const std::unique_ptr<BlockDevice> device_;
  char* const staging_;
  const int depth_;
  const int64_t piece_bytes_;
  std::atomic<int64_t> moved_bytes_{0};
  // Of the thread.
  std::shared_ptr<DiskTransfer> feeding_;
  std::deque<Piece> under_way_;
  int next_index_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<DiskTransfer>> queue_;
  bool stopping_ = false;
  std::thread thread_;  // last: it starts when everything above is there
};

}  // namespace hetmem
