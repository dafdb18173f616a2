// What bytes are used for: the tags of reservations, reports and plans. Values; thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace hetmem {

enum class MemoryKind : uint8_t {
  kWeights,
  kGradients,
  kOptimizer,
  kActivationsSaved,
  kActivationsTemporary,
  kStaging,
  kWorkspace,
};
constexpr int kMemoryKinds = static_cast<int>(MemoryKind::kWorkspace) + 1;
// "weights", "activations_saved", ...
std::string_view name_of(MemoryKind kind);
// The same for people: "activations saved".
std::string readable_name(MemoryKind kind);

// Bytes by kind.
using BytesByKind = std::array<int64_t, kMemoryKinds>;
int64_t total(const BytesByKind& bytes);

}  // namespace hetmem
