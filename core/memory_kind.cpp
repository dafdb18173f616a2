#include "core/memory_kind.h"

#include <algorithm>
#include <numeric>

namespace hetmem {

std::string_view name_of(MemoryKind kind) {
  static constexpr std::array<std::string_view, kMemoryKinds> kNames{
      "weights", "gradients", "optimizer", "activations_saved", "activations_temporary",
      "staging", "workspace"};
  return kNames.at(static_cast<size_t>(kind));
}

std::string readable_name(MemoryKind kind) {
  std::string name(name_of(kind));
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

int64_t total(const BytesByKind& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

}  // namespace hetmem
