#include "chunk_manager/list_blocks.h"

#include "core/split_master.h"

namespace hetmem {

void ListBlocks::make(const std::vector<SpareRoom>& rooms, int64_t largest, int64_t most,
                      bool split) {
  constexpr auto kHalves = static_cast<int64_t>(sizeof(uint16_t) + sizeof(int16_t));
  const int64_t bytes = static_cast<int64_t>(sizeof(float)) + (split ? kHalves : 0);  // an element
  int64_t elements = most;
  while (elements > kLeast && elements / 2 >= largest) elements /= 2;
  while (!rooms.empty()) {
    std::optional<Reservation> room = first_that_fits(rooms, [&](const SpareRoom& of) {
      return of.tier->reserve(elements * bytes, MemoryKind::kStaging);
    });
    if (room) reserved_ = std::move(*room);
    if (room || elements == kLeast) break;
    elements /= 2;
  }
  values_.resize(static_cast<size_t>(elements));
  high_.resize(split ? values_.size() : 0);
  low_.resize(high_.size());
}

void ListBlocks::release() {
  values_ = {};
  high_ = {};
  low_ = {};
  reserved_.release();
}

void ListBlocks::join(int64_t count) {
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    values_[i] = join_master(high_[i], low_[i]);
  }
}

void ListBlocks::split(int64_t count) {
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const SplitMaster halves = split_master(values_[i]);
    high_[i] = halves.hi;
    low_[i] = halves.lo;
  }
}

}  // namespace hetmem
