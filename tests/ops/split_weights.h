// Weights as split masters, for the tests of optimizers on every backend.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor_view.h"

namespace hetmem::testing_ops {

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
