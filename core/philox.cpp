#include "core/philox.h"

#include <bit>
#include <cmath>
#include <numbers>

namespace hetmem {

std::array<uint32_t, 4> philox(uint64_t key, uint64_t stream, uint64_t index) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53U;
  constexpr uint32_t kMultiplier1 = 0xCD9E8D57U;
  constexpr uint32_t kWeyl0 = 0x9E3779B9U;
  constexpr uint32_t kWeyl1 = 0xBB67AE85U;
  std::array<uint32_t, 4> c{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                            static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  auto key0 = static_cast<uint32_t>(key);
  auto key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * c[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return c;
}

std::array<double, 2> normal_pair(uint64_t key, uint64_t stream, uint64_t index) {
  const auto words = philox(key, stream, index);
  const uint64_t bits0 = (static_cast<uint64_t>(words[1]) << 32) | words[0];
  const uint64_t bits1 = (static_cast<uint64_t>(words[3]) << 32) | words[2];
  const double u0 = (static_cast<double>(bits0 >> 11) + 0.5) * 0x1p-53;  // in (0, 1)
  const double u1 = (static_cast<double>(bits1 >> 11) + 0.5) * 0x1p-53;
  const double radius = std::sqrt(-2.0 * std::log(u0));
  const double angle = 2.0 * std::numbers::pi * u1;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

uint64_t permute(uint64_t key, uint64_t stream, uint64_t n, uint64_t i) {
  if (n < 2) return i;
  const int half = (std::bit_width(n - 1) + 1) / 2;  // bits of each Feistel half
  const uint64_t mask = (uint64_t{1} << half) - 1;
  constexpr int kRounds = 6;
  do {
    uint64_t left = i >> half;
    uint64_t right = i & mask;
    for (int round = 0; round < kRounds; ++round) {
      const auto words = philox(key ^ static_cast<uint64_t>(round), stream, right);
      const uint64_t next = left ^ (((static_cast<uint64_t>(words[1]) << 32) | words[0]) & mask);
      left = right;
      right = next;
    }
    i = (left << half) | right;
  } while (i >= n);
  return i;
}

}  // namespace hetmem
