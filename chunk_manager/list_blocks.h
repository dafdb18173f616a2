// ListBlocks: host memory in which elements of lists are in fp32 while they are read or written: a
// block, and the halves of one where weights are split. It is reserved where there is room: the
// less there is, the smaller the blocks. Not thread-safe.
//
//   ListBlocks blocks;
//   blocks.make(rooms, elements, ChunkManager::kBlock, /*split=*/false);
//   for (int64_t first = 0; first < elements; first += blocks.elements()) ...
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "device/tier.h"

namespace hetmem {

// Where memory may be taken from beside what the Plan has, the first that has room first.
struct SpareRoom {
  Tier* tier;
  MemorySpace space;
};

// What make(room) makes in the first room in which it does not throw Error (kDoesNotFit).
template <typename Make>
auto first_that_fits(const std::vector<SpareRoom>& rooms, const Make& make)
    -> std::optional<decltype(make(std::declval<const SpareRoom&>()))> {
  for (const SpareRoom& room : rooms) {
    try {
      return make(room);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kDoesNotFit) throw;
    }
  }
  return std::nullopt;
}

class ListBlocks {
 public:
  // Elements of a block at least, also where no tier has room for them: there is no reading
  // without.
  static constexpr int64_t kLeast = 4096;

  bool empty() const { return values_.empty(); }
  // Blocks for pieces of up to `largest` elements, of at most `most`, a power of 2.
  // Without rooms the memory is reserved already.
  void make(const std::vector<SpareRoom>& rooms, int64_t largest, int64_t most, bool split);
  void release();

  int64_t elements() const { return static_cast<int64_t>(values_.size()); }
  float* values() { return values_.data(); }
  // bf16 and int16, where weights are split.
  uint16_t* high() { return high_.data(); }
  int16_t* low() { return low_.data(); }
  // values() of the halves, and the other way round.
  void join(int64_t count);
  void split(int64_t count);

 private:
  Reservation reserved_;
  std::vector<float> values_;
  std::vector<uint16_t> high_;
  std::vector<int16_t> low_;
};

}  // namespace hetmem
