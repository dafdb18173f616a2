// ChunkManager: the chunks of a model and where each has its home. The home of a chunk holds its
// weights (fp32, or split into bf16 and int16 where products read bf16) and optimizer state, and
// (where it is not on the device) its gradients while they wait for the optimizer: on the device
// for chunks that stay, else on the host, or list by list on disk. Streamed chunks have a copy of
// their weights on the device while the Plan says so; what was not written is dropped, never copied
// back.
//
//   ChunkManager chunks(layout, /*moments=*/2, device, host, transfers);
//   chunks.place(plan.resident);
//   chunks.write(ChunkList::kWeights, tensor, [&](float* to, int64_t first, int64_t count) {...});
//
// A chunk that is all on the host may have a twin: spare memory for its state, into which a step
// can write while what it began with stays; flip() makes the twin the state.
//
// A pinned chunk cannot move; several users may pin it. What moves or writes chunks waits for a
// ChunkSnapshot that is being read. Not thread-safe: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "chunk_manager/chunk_home.h"
#include "chunk_manager/list_blocks.h"
#include "chunk_manager/open_page.h"
#include "core/tensor_view.h"
#include "device/tier.h"
#include "offload/transfer_engine.h"
#include "planner/chunk_layout.h"

namespace hetmem {

class ChunkManager;
class ChunkSnapshot;

// Keeps a chunk where it is. Move-only; releases in the destructor; must not outlive its manager.
class ChunkPin {
 public:
  ChunkPin() = default;
  ChunkPin(ChunkPin&& other) noexcept;
  ChunkPin& operator=(ChunkPin&& other) noexcept;
  ~ChunkPin();
  void release();
  int chunk() const { return chunk_; }

 private:
  friend class ChunkManager;
  ChunkPin(ChunkManager* manager, int chunk) : manager_(manager), chunk_(chunk) {}
  ChunkManager* manager_ = nullptr;
  int chunk_ = -1;
};

class ChunkManager {
 public:
  // `moments`: what the optimizer keeps of each trained tensor. `disk` may be null.
  ChunkManager(const ChunkLayout& layout, const MomentLists& moments, Tier& device, Tier& host,
               TransferEngine& transfers, DiskTier* disk = nullptr);

  // Gives every chunk its home: at first memory, later by moving chunks, one at a time, those that
  // leave a tier first. `places`, by chunk, are for those that are not resident (empty: the host);
  // those of `twins` (by chunk; empty: none) have a twin. Throws Error: kDoesNotFit where a tier
  // has no room, kStorage, kCorrupt, kInternal for a pinned chunk; every chunk is then whole where
  // it was or where it goes.
  void place(const std::vector<bool>& resident, const std::vector<ChunkPlaces>& places = {},
             const std::vector<bool>& twins = {});
  bool resident(int chunk) const { return home(chunk).choice().on_device; }
  const std::vector<bool> residents() const;

  const ChunkLayout& layout() const { return layout_; }
  const MomentLists& moments() const { return moments_; }
  // Weights, and moments of what is trained.
  int lists(int chunk) const { return shape(chunk).trained ? 1 + moments_.count : 1; }

  // A chunk's part of a list at its home, in the memory space of the home; it must be in memory.
  // fp32, but for weights that are split: the high halves are bf16, kLow has the others, int16.
  // kGradient is where the gradients of a chunk that does not stay wait. Moments in 8 bits are
  // bytes.
  TensorView whole(ChunkList list, int chunk) const { return home(chunk).memory(list); }
  // The same in the twin of a chunk, which must have one.
  TensorView twin(ChunkList list, int chunk) const { return home(chunk).twin(list); }
  // State and twin change places; nothing may be using either as what it was.
  void flip(int chunk) { homes_[static_cast<size_t>(chunk)].flip(); }

  bool has(ChunkList list, int chunk) const { return home(chunk).has(list); }
  DType dtype(ChunkList list, int chunk) const { return home(chunk).dtype(list); }
  bool on_disk(ChunkList list, int chunk) const { return home(chunk).on_disk(list); }
  bool any_on_disk(int chunk) const { return home(chunk).choice().places.any_on_disk(); }
  // Of a list that is on disk, in order; empty: it is in memory. Whoever enqueues a write counts
  // the generation up.
  std::vector<DiskPage>& pages(ChunkList list, int chunk) {
    return homes_[static_cast<size_t>(chunk)].pages(list);
  }
  DiskTier* disk() const { return tiers_.disk; }
  // Host memory that reading, writing and moving chunks on disk takes, and a snapshot of them
  // beside that. Whoever uses a disk reserves it.
  static int64_t staging_bytes();

  int64_t state_bytes(int chunk) const;
  // To be called before work is enqueued that changes them: a snapshot that is being read may need
  // what is there. May block.
  void before_change(int chunk, Stream& stream);
  // Of the twin; false: a snapshot reads it and there is no memory to copy it to.
  bool try_before_changing_twin(int chunk, Stream& stream);
  // Whether there is such a snapshot.
  bool being_read() const { return snapshot_ != nullptr; }

  ChunkPin pin(int chunk);
  int pins(int chunk) const { return pins_[static_cast<size_t>(chunk)]; }

  // Reads or writes a tensor in fp32, elements in order, wherever it is, in blocks of up to kBlock
  // elements, fewer where tiers have no room for them; moments in 8 bits as they are, word by word
  // of their records (words_of()). Nothing may be under way with its chunks.
  static constexpr int64_t kBlock = kPageElements;
  using Sink = std::function<void(const float* data, int64_t count)>;
  using Source = std::function<void(float* destination, int64_t first, int64_t count)>;
  void read(ChunkList list, int tensor, const Sink& sink);
  void write(ChunkList list, int tensor, const Source& source);

 private:
  friend class ChunkPin;
  friend class ChunkSnapshot;
  const ChunkHome& home(int chunk) const { return homes_[static_cast<size_t>(chunk)]; }
  const ChunkShape& shape(int chunk) const { return layout_.chunks[static_cast<size_t>(chunk)]; }
  void place_homes(const std::vector<HomeChoice>& choices);
  bool make_room(const std::vector<int>& pending);
  bool has_room(int chunk, const HomeChoice& choice) const;
  void clear_pages(ChunkHome& home);
  void move(int chunk, const HomeChoice& choice);
  void copy_list(ChunkList list, int chunk, ChunkHome& from, ChunkHome& to);
  void copy_out(ChunkHome& from, ChunkList list, int64_t first, int64_t count, void* to);
  void copy_in(ChunkHome& to, ChunkList list, int64_t first, int64_t count, const void* from);
  // Between a list, or the two of weights that are split, and blocks.
  void read_block(ChunkHome& from, ChunkList list, int64_t first, int64_t count, ListBlocks& to);
  void write_block(ChunkHome& to, ChunkList list, int64_t first, int64_t count, ListBlocks& from);
  // For all of a tensor; none where its memory is the host's.
  void make_blocks(ChunkList list, int tensor, ListBlocks& blocks) const;
  bool is_plain(const ChunkHome& home, ChunkList list) const;
  std::vector<SpareRoom> rooms_of_blocks() const;

  const ChunkLayout& layout_;
  const MomentLists moments_;
  const HomeTiers tiers_;
  TransferEngine& transfers_;
  std::vector<SpareRoom> rooms_;  // of snapshots and blocks
  std::vector<ChunkHome> homes_;
  std::vector<int> pins_;
  OpenPage page_;
  ChunkSnapshot* snapshot_ = nullptr;  // that is being read
};

}  // namespace hetmem
