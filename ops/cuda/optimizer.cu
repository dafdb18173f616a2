// Optimizer steps and sums of squares with the bits of the other devices: operations rounded one by
// one, in the order written for all of them (isa/optimizer_kernels.cpp), nothing fused.
#include <algorithm>

#include "ops/cuda/adamw.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

struct AdamW {
  AdamWScalars s;
  OptimizerWeight w;
  const float* g;
  float* m;
  float* v;
  __device__ void operator()(int64_t i) const {
    float moment1 = m[i];
    float moment2 = v[i];
    w.set(i, adamw_value(s, w.get(i), __fmul_rn(g[i], s.gradient_scale), moment1, moment2));
    m[i] = moment1;
    v[i] = moment2;
  }
};

struct Sgd {
  SgdStep step;
  OptimizerWeight w;
  const float* g;
  float* buffer;
  __device__ void operator()(int64_t i) const {
    const float before = w.get(i);
    const float d =
        __fadd_rn(__fmul_rn(g[i], step.gradient_scale), __fmul_rn(step.weight_decay, before));
    const float moved = step.first ? d : __fadd_rn(__fmul_rn(step.momentum, buffer[i]), d);
    buffer[i] = moved;
    w.set(i, __fsub_rn(before, __fmul_rn(step.learning_rate, moved)));
  }
};

constexpr int kLanes = 16;       // threads of one block of the sum: element i is lane i % 16's
constexpr int kSumThreads = 64;  // of a block of threads

// parts[j] = the sum of squares of block j of kSumBlock elements: each lane adds its own in order,
// then the lanes are added as a tree.
__global__ void __launch_bounds__(kSumThreads)
    block_sums_kernel(const float* x, int64_t count, int64_t blocks, double* parts) {
  const int64_t block =
      static_cast<int64_t>(blockIdx.x) * (kSumThreads / kLanes) + threadIdx.x / kLanes;
  const int64_t begin = block * kSumBlock;
  const int64_t end = begin + kSumBlock < count ? begin + kSumBlock : count;
  double sum = 0.0;
#ifdef __CUDACC__
#pragma unroll 16
#endif
  for (int64_t i = begin + threadIdx.x % kLanes; i < end; i += kLanes) {
    const auto value = static_cast<double>(x[i]);
    sum = __dadd_rn(sum, __dmul_rn(value, value));
  }
  HETMEM_UNROLL
  for (unsigned distance = kLanes / 2; distance > 0; distance /= 2) {
    sum = __dadd_rn(sum, __shfl_down_sync(0xffffffffU, sum, distance, kLanes));
  }
  if (threadIdx.x % kLanes == 0 && block < blocks) parts[block] = sum;
}

__global__ void add_in_order_kernel(const double* parts, int64_t count, bool accumulate,
                                    double* sum) {
  double total = accumulate ? *sum : 0.0;
  for (int64_t i = 0; i < count; ++i) total = __dadd_rn(total, parts[i]);
  *sum = total;
}

}  // namespace

void adamw_step(const Queue& queue, const AdamWStep& step, const TensorView& weight,
                const TensorView& gradient, const TensorView& m, const TensorView& v,
                const TensorView& low) {
  for_each(queue, weight.elements(),
           AdamW{scalars_of(step), optimizer_weight(weight, low), gradient.as<float>(),
                 m.as<float>(), v.as<float>()});
}

void sgd_step(const Queue& queue, const SgdStep& step, const TensorView& weight,
              const TensorView& gradient, const TensorView& momentum, const TensorView& low) {
  for_each(queue, weight.elements(),
           Sgd{step, optimizer_weight(weight, low), gradient.as<float>(), momentum.as<float>()});
}

void sum_of_squares(const Queue& queue, const TensorView& values, const TensorView& sum,
                    bool accumulate, double* parts) {
  const int64_t count = values.elements();
  constexpr int64_t kElementsAtOnce = kSumsAtOnce * kSumBlock;
  int64_t first = 0;
  do {
    const int64_t now = std::min(kElementsAtOnce, count - first);
    const int64_t blocks = (now + kSumBlock - 1) / kSumBlock;
    launch_kernel(queue, block_sums_kernel, dim3(blocks_for(blocks, kSumThreads / kLanes)),
                  dim3(kSumThreads), 0, values.as<float>() + first, now, blocks, parts);
    launch_kernel(queue, add_in_order_kernel, dim3(1), dim3(1), 0, parts, blocks,
                  accumulate || first > 0, sum.as<double>());
    first += now;
  } while (first < count);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
