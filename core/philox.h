// Philox4x32-10, the counter-based generator of Salmon et al. (SC'11): random bits are a pure
// function of (key, counter), so that a draw is the same whatever the order, thread or tier that
// asks for it. Stateless and thread-safe.
#pragma once

#include <array>
#include <cstdint>

namespace hetmem {

// Four 32-bit words for one counter. `stream` names the use (a dropout site, a tensor), `index` the
// block within it.
std::array<uint32_t, 4> philox(uint64_t key, uint64_t stream, uint64_t index);

// Uniform in [0, 1) with 24 bits.
inline float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 5.9604644775390625e-08F;
}

// Two independent standard normals from the block (Box-Muller, in double).
std::array<double, 2> normal_pair(uint64_t key, uint64_t stream, uint64_t index);

// A permutation of [0, n) as a bijection on counters: position i of epoch `stream` holds this
// element. A Feistel network over the next power of four, walked until the value falls below n.
uint64_t permute(uint64_t key, uint64_t stream, uint64_t n, uint64_t i);

}  // namespace hetmem
