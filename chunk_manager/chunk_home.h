// ChunkHome: where one chunk lives. Each of its lists is in one block of memory, on the device or
// on the host, or on disk in pages. One whose state is all on the host may have a twin: spare
// memory for its state. Made by the ChunkManager; move-only. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor_view.h"
#include "device/stream.h"
#include "device/tier.h"
#include "offload/disk_tier.h"
#include "planner/chunk_layout.h"
#include "planner/homes.h"

namespace hetmem {

enum class ChunkList : uint8_t { kWeights, kFirstMoment, kSecondMoment, kLow, kGradient };
constexpr size_t kChunkLists = 5;
// All but gradients, in the order in which they are in memory.
inline constexpr std::array kListsOfState{ChunkList::kWeights, ChunkList::kLow,
                                          ChunkList::kFirstMoment, ChunkList::kSecondMoment};

// Elements [first, first + count) of a list; of moments in 8 bits (kUint8) `first` begins a record,
// and the view is of all bytes of the records.
TensorView part_of_list(const TensorView& list, int64_t first, int64_t count);

// Elements of a page: enough for disks at full speed, and little enough that a few of them are all
// the memory that passing by takes.
constexpr int64_t kPageElements = int64_t{1} << 19;
constexpr int64_t kPageBytes = kPageElements * 4;  // of fp32, the largest

// Elements [first, first + count) of a list of a chunk, in one slot of the disk.
struct DiskPage {
  DiskSlot slot;
  int64_t first = 0;
  int64_t count = 0;
  int64_t generation = -1;  // that was written last
  Event busy;               // the last transfer that was enqueued
};

struct HomeChoice {
  bool on_device = false;
  ChunkPlaces places;  // where it is not
  bool operator==(const HomeChoice&) const = default;
};

// The tiers that homes are in; `disk` may be null.
struct HomeTiers {
  Tier& device;
  Tier& host;
  DiskTier* disk = nullptr;
};

class ChunkHome {
 public:
  ChunkHome() = default;
  // Reserves all of it, but for lists that are on disk `before`, too: their pages are for
  // take_pages(). `moments`: what the optimizer keeps. What is on disk has no contents yet. Throws
  // Error (kDoesNotFit).
  ChunkHome(const ChunkShape& shape, int chunk, const MomentLists& moments,
            const HomeChoice& choice, const HomeTiers& tiers, const HomeChoice& before = {});
  // From the home before.
  void take_pages(ChunkHome& before);

  // What it would take of a tier, on disk with what a slot takes beside its payload and without
  // lists that are there `before`.
  static BytesByKind memory_bytes(const ChunkShape& shape, const MomentLists& moments,
                                  const HomeChoice& choice);
  static int64_t disk_bytes(const ChunkShape& shape, const MomentLists& moments,
                            const HomeChoice& choice, const HomeChoice& before = {});

  const HomeChoice& choice() const { return choice_; }
  bool has(ChunkList list) const;
  bool on_disk(ChunkList list) const { return !pages(list).empty(); }
  // In memory: the state, in the memory space of the home.
  TensorView memory(ChunkList list) const;
  // The same in the twin; gradients have none.
  TensorView twin(ChunkList list) const;
  bool has_twin() const { return spare_.bytes() > 0; }
  void make_twin(Tier& host);
  void drop_twin();
  // State and twin change places.
  void flip();
  std::vector<DiskPage>& pages(ChunkList list) { return pages_[static_cast<size_t>(list)]; }
  const std::vector<DiskPage>& pages(ChunkList list) const {
    return pages_[static_cast<size_t>(list)];
  }
  DType dtype(ChunkList list) const;

 private:
  TensorView view(const Buffer& buffer, ChunkList list) const;

  ChunkShape shape_;
  MomentLists moments_;
  HomeChoice choice_;
  Buffer buffer_;              // lists in the order of their offsets, gradients last
  BytesByKind state_bytes_{};  // of it, without gradients
  Buffer spare_;               // with the bytes of a state; empty: no twin
  bool flipped_ = false;       // the state is in `spare_`
  std::array<int64_t, kChunkLists> offsets_{-1, -1, -1, -1, -1};
  std::array<std::vector<DiskPage>, kChunkLists> pages_;
};

}  // namespace hetmem
