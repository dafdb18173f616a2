// Split master weights: an fp32 value as `hi`, a bf16 that products read, and `lo`, an int16 that
// only the optimizer needs, with bits(value) = (hi << 16) + lo. Exact for every pattern. `hi` is
// the value rounded to bf16, half up in the magnitude of the pattern, so that `lo` always fits.
// Stateless and thread-safe.
#pragma once

#include <bit>
#include <cstdint>

namespace hetmem {

struct SplitMaster {
  uint16_t hi;
  int16_t lo;
};

inline SplitMaster split_master(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return {static_cast<uint16_t>((bits + 0x8000U) >> 16), static_cast<int16_t>(bits & 0xffffU)};
}

// The sum wraps, as that of split_master() does.
inline float join_master(uint16_t hi, int16_t lo) {
  return std::bit_cast<float>((static_cast<uint32_t>(hi) << 16) +
                              static_cast<uint32_t>(static_cast<int32_t>(lo)));
}

}  // namespace hetmem
