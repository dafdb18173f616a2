// AdamW with moments in 8 bits: a block of threads for each record, a thread for each element,
// with the operations of the CPU's kernels (ops/cpu/isa/moment_kernels.cpp), rounded one by one.
#include "ops/cuda/adamw.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = static_cast<int>(kMomentBlock);
constexpr int kWarps = kThreads / kWarp;

__device__ float decoded(const MomentCode& code, uint8_t stored, float scale) {
  const int32_t offset = static_cast<int32_t>(stored) - (code.has_sign ? 127 : -1);
  const auto s = static_cast<float>(offset < 0 ? -offset : offset);
  const float t = code.has_sign ? 2.0F * s + 1.0F : s;  // exact
  const uint32_t line = (__float_as_uint(t) >> 23) % kMomentLevels;
  const float value = __fmul_rn(__fmaf_rn(code.step[line], t, code.base[line]), scale);
  return offset < 0 ? -value : value;
}

__device__ uint8_t encoded(const MomentCode& code, float x, float inverse) {
  const float fraction = __fmul_rn(x, inverse);
  const float a = fmaxf(fabsf(fraction), kLeastFraction);
  int level = 0;
  HETMEM_UNROLL
  for (int i = 0; i < kMomentLevels; ++i) level += code.at_least[i] <= a ? 1 : 0;
  const float u = fminf(__fmaf_rn(a, code.slope[level % kMomentLevels], kOffset), kMostOfDecade);
  constexpr uint32_t kHalf = 126U << 23;  // leaves a one before the fraction bits of u
  const auto s = static_cast<int32_t>((__float_as_uint(u) - kHalf) >> (23 - code.exponent - level));
  const int32_t number = !code.has_sign ? s - 1 : x < 0.0F ? 127 - s : 127 + s;
  return static_cast<uint8_t>(number > 0 ? number : 0);
}

// The moments of one kind.
struct Moments {
  MomentCode code;
  uint8_t* records;

  __device__ uint8_t* codes() const {
    return records + static_cast<int64_t>(blockIdx.x) * kMomentRecordBytes;
  }
  __device__ float* scale() const { return reinterpret_cast<float*>(codes() + kMomentBlock); }
  __device__ float get() const { return decoded(code, codes()[threadIdx.x], *scale()); }
  // By all threads of a block, when all have got theirs; x is 0 beyond the end.
  __device__ void set(float x, float* parts) const {
    const float largest = block_max<kWarps>(fabsf(x), parts);
    const bool counts = largest >= kLeastMomentScale;
    codes()[threadIdx.x] = encoded(code, x, counts ? __fdiv_rn(1.0F, largest) : 0.0F);
    if (threadIdx.x == 0) *scale() = counts ? largest : 0.0F;
  }
};

__global__ void __launch_bounds__(kThreads)
    adamw_8bit_kernel(AdamWScalars scalars, OptimizerWeight weight, const float* gradient,
                      int64_t count, Moments first, Moments second) {
  auto* parts = shared_memory<float>();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool there = i < count;
  float m = 0.0F;
  float v = 0.0F;
  if (there) {
    m = first.get();
    v = second.get();
    const float scaled = __fmul_rn(gradient[i], scalars.gradient_scale);
    const float bounded = fmaxf(fminf(scaled, kLargestMomentGradient), -kLargestMomentGradient);
    weight.set(i, adamw_value(scalars, weight.get(i), bounded, m, v));
  }
  first.set(m, parts);
  second.set(v, parts);
}

}  // namespace

void adamw_8bit_step(const Queue& queue, const AdamWStep& step, const TensorView& weight,
                     const TensorView& gradient, const TensorView& m, const TensorView& v,
                     const TensorView& low) {
  const int64_t count = weight.elements();
  launch_kernel(queue, adamw_8bit_kernel, dim3(blocks_for(count, kMomentBlock)), dim3(kThreads),
                kWarps * static_cast<int64_t>(sizeof(float)),
                scalars_of(without_second_correction(step)), optimizer_weight(weight, low),
                gradient.as<float>(), count, Moments{first_moment_code(), m.as<uint8_t>()},
                Moments{second_moment_code(), v.as<uint8_t>()});
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
