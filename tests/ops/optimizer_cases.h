// What the tests of optimizers share on every backend: a step, and weights as split masters.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor_view.h"
#include "ops/optimizer_step.h"

namespace hetmem::testing_ops {

// The t-th step (from 1), with everything that a step may have.
ops::AdamWStep adamw_step(int t);

struct SplitWeights {
  explicit SplitWeights(const std::vector<float>& weights);
  // By the definition, bits(master) = (hi << 16) + lo.
  std::vector<uint32_t> bits() const;
  TensorView high_view();
  TensorView low_view();

  std::vector<uint16_t> hi;
  std::vector<int16_t> lo;
};

std::vector<uint32_t> bits_of(const std::vector<float>& numbers);

// The numbers with others put among them where splitting has its edges: zeros, subnormal numbers,
// the largest ones, halves that round up, down and into the next exponent, of either sign.
std::vector<float> with_edges(std::vector<float> numbers);

}  // namespace hetmem::testing_ops
