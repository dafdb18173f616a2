// AdamW with moments in 8 bits: a block of threads for each block of elements, an element a thread,
// with the operations of the CPU's kernels (ops/cpu/isa/moment_kernels.cpp), rounded one by one.
#include "ops/cuda/adamw.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = static_cast<int>(kMomentBlock);
constexpr int kWarps = kThreads / kWarp;
constexpr float kLeastScale = 0x1p-126F;  // the smallest normal number

// The value of a code, as a share of the scale.
__device__ float decoded(const MomentCode& code, uint8_t stored) {
  const int32_t offset = static_cast<int32_t>(stored) - code.middle;
  const auto s = static_cast<float>(offset < 0 ? -offset : offset);
  const uint32_t line = (__float_as_uint(s) >> 23) % kMomentLevels;
  const float on_line = __fadd_rn(__fmul_rn(code.step[line], s), code.base[line]);
  const float fraction = s == code.apart ? code.apart_value : on_line;
  return offset < 0 ? -fraction : fraction;
}

__device__ uint8_t encoded(const MomentCode& code, float x, float inverse) {
  const float fraction = __fmul_rn(fabsf(x), inverse);
  int level = 0;
  HETMEM_UNROLL
  for (int i = 0; i + 1 < kMomentLevels; ++i) level += code.at_least[i] <= fraction ? 1 : 0;
  const float exact = __fadd_rn(__fmul_rn(fraction, code.slope[level]), code.shift[level]);
  int32_t s = static_cast<int32_t>(fminf(exact, code.most[level]));
  s += code.at_least[kMomentLevels - 1] <= fraction ? 1 : 0;
  if (code.has_sign && x < 0.0F) s = s > code.lowest ? -code.lowest : -s;
  return static_cast<uint8_t>(s + code.middle);
}

// The largest over a block of threads. `parts`: kWarps floats.
__device__ float block_largest(float value, float* parts) {
  value = warp_max(value);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  float largest = parts[0];
  for (int i = 1; i < kWarps; ++i) largest = fmaxf(largest, parts[i]);
  return largest;
}

// The moments of one kind.
struct Moments {
  MomentCode code;
  uint8_t* codes;
  float* scales;

  __device__ float get(int64_t i) const {
    return __fmul_rn(decoded(code, codes[i]), scales[i / kMomentBlock]);
  }
  // By all threads of a block; x is 0 beyond the end, where `there` is false.
  __device__ void set(int64_t i, bool there, float x, float* parts) const {
    const float largest = block_largest(fabsf(x), parts);
    const bool counts = largest >= kLeastScale;
    if (there) codes[i] = encoded(code, x, counts ? __fdiv_rn(1.0F, largest) : 0.0F);
    if (threadIdx.x == 0) scales[i / kMomentBlock] = counts ? largest : 0.0F;
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
    m = first.get(i);
    v = second.get(i);
    weight.set(i, adamw_value(scalars, weight.get(i), gradient[i], m, v));
  }
  first.set(i, there, m, parts);
  second.set(i, there, v, parts + kWarps);
}

}  // namespace

void adamw_8bit_step(const Queue& queue, const AdamWStep& step, const TensorView& weight,
                     const TensorView& gradient, const Moments8Bit& moments,
                     const TensorView& low) {
  const int64_t count = weight.elements();
  launch_kernel(
      queue, adamw_8bit_kernel, dim3(blocks_for(count, kMomentBlock)), dim3(kThreads),
      2 * kWarps * static_cast<int64_t>(sizeof(float)), scalars_of(step),
      optimizer_weight(weight, low), gradient.as<float>(), count,
      Moments{first_moment_code(), moments.m.as<uint8_t>(), moments.m_scales.as<float>()},
      Moments{second_moment_code(), moments.v.as<uint8_t>(), moments.v_scales.as<float>()});
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
