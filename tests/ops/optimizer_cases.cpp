#include "optimizer_cases.h"

#include <bit>
#include <cmath>

#include "core/split_master.h"

namespace hetmem::testing_ops {
namespace {

template <typename Number>
TensorView view_of(std::vector<Number>& numbers, DType dtype) {
  return {numbers.data(), dtype, Shape{static_cast<int64_t>(numbers.size())}, MemorySpace::kDevice};
}

}  // namespace

ops::AdamWStep adamw_step(int t) {
  ops::AdamWStep step;
  step.learning_rate = 0.01F;
  step.weight_decay = 0.1F;
  step.gradient_scale = 0.7F;
  step.bias_correction1 = 1.0F - std::pow(step.beta1, static_cast<float>(t));
  step.bias_correction2_sqrt = std::sqrt(1.0F - std::pow(step.beta2, static_cast<float>(t)));
  return step;
}

SplitWeights::SplitWeights(const std::vector<float>& weights) {
  for (const float weight : weights) {
    const SplitMaster split = split_master(weight);
    hi.push_back(split.hi);
    lo.push_back(split.lo);
  }
}

std::vector<uint32_t> SplitWeights::bits() const {
  std::vector<uint32_t> all;
  for (size_t i = 0; i < hi.size(); ++i) {
    const int64_t sum = static_cast<int64_t>(hi[i]) * 65536 + lo[i];
    all.push_back(static_cast<uint32_t>(sum & 0xffffffff));
  }
  return all;
}

TensorView SplitWeights::high_view() { return view_of(hi, DType::kBFloat16); }
TensorView SplitWeights::low_view() { return view_of(lo, DType::kInt16); }

std::vector<uint32_t> bits_of(const std::vector<float>& numbers) {
  std::vector<uint32_t> all;
  for (const float number : numbers) all.push_back(std::bit_cast<uint32_t>(number));
  return all;
}

std::vector<float> with_edges(std::vector<float> numbers) {
  constexpr uint32_t kPatterns[] = {0x00000000, 0x00000001, 0x00007fff, 0x00008000, 0x0000ffff,
                                    0x007fffff, 0x00800000, 0x3f800000, 0x3f807fff, 0x3f808000,
                                    0x3f80ffff, 0x3fff8000, 0x7f000000, 0x7f7f0000, 0x7f7f7fff};
  constexpr uint32_t kSign = 0x80000000;
  size_t at = 0;
  for (const uint32_t pattern : kPatterns) {
    numbers.at(at) = std::bit_cast<float>(pattern);
    numbers.at(at + 7) = std::bit_cast<float>(pattern | kSign);
    at += 19;  // at every place of a vector
  }
  return numbers;
}

}  // namespace hetmem::testing_ops
