#include "offload/extents.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"

namespace hetmem {

Extents::Extents(int64_t bytes) : free_bytes_(bytes) {
  HETMEM_ASSERT(bytes >= 0);
  if (bytes > 0) free_.emplace(0, bytes);
}

int64_t Extents::take(int64_t bytes) {
  HETMEM_ASSERT(bytes > 0);
  const auto found = std::find_if(free_.begin(), free_.end(),
                                  [bytes](const auto& part) { return part.second >= bytes; });
  if (found == free_.end()) return -1;
  const auto [offset, size] = *found;
  free_.erase(found);
  if (size > bytes) free_.emplace(offset + bytes, size - bytes);
  free_bytes_ -= bytes;
  return offset;
}

void Extents::give_back(int64_t offset, int64_t bytes) {
  free_bytes_ += bytes;
  const auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == offset + bytes) {
    bytes += next->second;
    free_.erase(next);
  }
  const auto after = free_.lower_bound(offset);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == offset) {
      before->second += bytes;
      return;
    }
  }
  free_.emplace(offset, bytes);
}

int64_t Extents::largest_free() const {
  int64_t largest = 0;
  for (const auto& [offset, bytes] : free_) largest = std::max(largest, bytes);
  return largest;
}

}  // namespace hetmem
