// core/philox.h for kernels: the same bits. Included by kernel files only.
#pragma once

#include <cstdint>

#include "core/op.h"
#include "ops/cuda/kernel.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

struct PhiloxWords {
  uint32_t words[4];
};

__device__ inline PhiloxWords philox(uint64_t key, uint64_t stream, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index);
  uint32_t c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream);
  uint32_t c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  HETMEM_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53U, c0);
    const uint32_t low0 = 0xD2511F53U * c0;
    const uint32_t high1 = __umulhi(0xCD9E8D57U, c2);
    const uint32_t low1 = 0xCD9E8D57U * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return {{c0, c1, c2, c3}};
}

__device__ inline float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 5.9604644775390625e-08F;  // 2^-24
}

// The draws of one dropout site.
struct Dropout {
  uint64_t key;
  uint32_t site;
  float p;
  float kept;  // 1 / (1 - p)

  // What element `index` is multiplied with: 0 or 1 / (1 - p).
  __device__ float factor(int64_t index) const {
    const auto at = static_cast<uint64_t>(index);
    const PhiloxWords drawn = philox(key, site, at / 4);
    // Chosen by comparison: an index that is not known at compile time would go through memory.
    const auto which = static_cast<uint32_t>(at % 4);
    const uint32_t low = which == 0 ? drawn.words[0] : drawn.words[1];
    const uint32_t high = which == 2 ? drawn.words[2] : drawn.words[3];
    return uniform_from_bits(which < 2 ? low : high) >= p ? kept : 0.0F;
  }
};
inline Dropout dropout_of(const OpRuntime& runtime, float p, uint32_t site) {
  return {runtime.random_key, site, p, 1.0F / (1.0F - p)};
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
