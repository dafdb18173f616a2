// ChunkSnapshot: the weights and moments of all chunks as they are when it is made, for one reader
// on a thread of its own while training goes on (copy on write). Nothing is copied beforehand. A
// chunk that is about to change and that the reader has not passed is copied to spare host memory
// where its tier has room (on the processor to spare device memory, too); where there is none, or
// parts of the chunk are on disk, the change waits until the reader has passed. The blocks that are
// read into are reserved there, too, beside what staging_bytes() has of them: the less room there
// is, the smaller they are.
//
//   auto snapshot = trainer.snapshot();                      // between two steps
//   std::thread reader([&] { snapshot->read(ChunkList::kWeights, tensor, sink); ... });
//   trainer.step(tokens);                                    // tells it what is about to change
//
// read() and stop() belong to the reader, all else to the thread that trains; the two may run at
// once. One snapshot of a ChunkManager at a time; it must not outlive the manager.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "chunk_manager/chunk_manager.h"
#include "device/stream.h"
#include "device/tier.h"

namespace hetmem {

class ChunkSnapshot {
 public:
  // Every chunk has its home, and no stream works on any.
  ChunkSnapshot(ChunkManager& chunks, TransferEngine& transfers);
  // The reader is done, or has stopped.
  ~ChunkSnapshot();
  ChunkSnapshot(const ChunkSnapshot&) = delete;
  ChunkSnapshot& operator=(const ChunkSnapshot&) = delete;

  // Elements in order, in blocks. Each list of each tensor is read once, in any order.
  void read(ChunkList list, int tensor, const ChunkManager::Sink& sink);
  // The reader reads no more: nothing waits for it from now on, and spare memory is given back.
  void stop();

  // `stream` is about to change the chunk where its weights are `there`: it will find it free. May
  // block for as long as the reader takes.
  void before_change(int chunk, const TensorView& there, Stream& stream);
  // The same where that takes a copy at most; false: the memory is to stay as it is.
  bool try_before_change(int chunk, const TensorView& there, Stream& stream);
  // Blocks until the reader has passed every chunk, or has stopped.
  void wait();

  // For how long this thread has been blocked, and what was copied.
  double waited_seconds() const;
  int64_t spared_bytes() const;
  // Chunks whose change waited for the reader because there was no spare memory for them.
  int64_t chunks_without_room() const;

 private:
  struct State {
    // Where it is: a twin may take its place meanwhile. Empty: on disk, or there is none.
    std::array<TensorView, kChunkLists> lists;  // by ChunkList
    int unread = 0;                             // lists of its pieces
    bool reading = false;                       // a block of it is being copied from its home
    std::optional<Buffer> spare;
    Event copied;  // the spare copy is made
  };
  void read_block(ChunkList list, int chunk, int64_t first, int64_t count, bool last, void* to);
  bool is_read(const State& state, const TensorView& there) const;
  // Spare memory for the chunk, where there is room.
  std::optional<Buffer> find_room(int chunk);
  void copy_to(Buffer spare, State& state, Stream& stream);
  void make_blocks();
  // With the lock: memory of the reader is given back.
  void end_reading();
  template <typename Condition>
  void wait_until(std::unique_lock<std::mutex>& lock, const Condition& condition);

  ChunkManager& chunks_;
  ListBlocks blocks_;  // of the reader, from its first block on
  OpenPage page_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<State> states_;
  int64_t unread_ = 0;
  bool stopped_ = false;
  bool given_back_ = false;  // all memory that was taken for the reader: it needs none any more
  bool not_copied_ = false;  // a spare copy could not be enqueued: its chunk is lost to the reader
  double waited_seconds_ = 0;
  int64_t spared_bytes_ = 0;
  int64_t without_room_ = 0;
  // Last: they work on what is above. One is fed by the reader, one by the thread that trains.
  std::unique_ptr<Stream> reading_;
  std::unique_ptr<Stream> sparing_;
};

}  // namespace hetmem
