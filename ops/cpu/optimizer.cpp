#include <algorithm>

#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kBlock = 65536;  // elements of a task

}  // namespace

void adamw_step(ThreadPool& pool, const AdamWStep& step, const TensorView& weight,
                const TensorView& gradient, const TensorView& m, const TensorView& v) {
  const AdamWScalars scalars = scalars_of(step);
  auto* w = weight.as<float>();
  const auto* g = gradient.as<float>();
  auto* moment1 = m.as<float>();
  auto* moment2 = v.as<float>();
  pool.parallel_blocks(weight.elements(), kBlock, [&](int64_t begin, int64_t end) {
    kernel_table().adamw(scalars, w + begin, g + begin, moment1 + begin, moment2 + begin,
                         end - begin);
  });
}

void sgd_step(ThreadPool& pool, const SgdStep& step, const TensorView& weight,
              const TensorView& gradient, const TensorView& momentum) {
  auto* w = weight.as<float>();
  const auto* g = gradient.as<float>();
  auto* buffer = momentum.as<float>();
  pool.parallel_blocks(weight.elements(), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float d = g[i] * step.gradient_scale + step.weight_decay * w[i];
      buffer[i] = step.first ? d : step.momentum * buffer[i] + d;
      w[i] = w[i] - step.learning_rate * buffer[i];
    }
  });
}

void sum_of_squares(ThreadPool& pool, const TensorView& values, const TensorView& sum,
                    bool accumulate) {
  const auto* x = values.as<float>();
  const int64_t count = values.elements();
  const int64_t blocks = (count + kSumBlock - 1) / kSumBlock;
  // Blocks are taken a fixed number at a time, so that their sums need no memory of the heap.
  constexpr int64_t kAtOnce = 256;
  double parts[kAtOnce];
  double total = accumulate ? *sum.as<double>() : 0.0;
  for (int64_t first = 0; first < blocks; first += kAtOnce) {
    const int64_t now = std::min(kAtOnce, blocks - first);
    pool.parallel_for(now, [&](int64_t i) {
      const int64_t begin = (first + i) * kSumBlock;
      parts[i] = kernel_table().sum_of_squares(x + begin, std::min(kSumBlock, count - begin));
    });
    for (int64_t i = 0; i < now; ++i) total += parts[i];
  }
  *sum.as<double>() = total;
}

}  // namespace hetmem::ops::cpu
