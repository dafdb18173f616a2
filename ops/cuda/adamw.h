// One AdamW step of one element, and the weights that optimizers step, for the kernels of every
// form of it: operations rounded one by one, in the order written for all devices
// (ops/cpu/isa/optimizer_kernels.cpp), nothing fused.
#pragma once

#include "core/tensor_view.h"
#include "ops/cuda/kernel.h"
#include "ops/optimizer_step.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

// A weight in fp32, or as a split master (core/split_master.h has the formulas, on the host).
struct OptimizerWeight {
  float* whole;  // or null
  uint16_t* hi;
  int16_t* lo;
  __device__ float get(int64_t i) const {
    if (whole != nullptr) return whole[i];
    return __uint_as_float((static_cast<uint32_t>(hi[i]) << 16) +
                           static_cast<uint32_t>(static_cast<int32_t>(lo[i])));
  }
  __device__ void set(int64_t i, float value) const {
    if (whole != nullptr) {
      whole[i] = value;
      return;
    }
    const uint32_t bits = __float_as_uint(value);
    hi[i] = static_cast<uint16_t>((bits + 0x8000U) >> 16);
    lo[i] = static_cast<int16_t>(bits & 0xffffU);
  }
};
inline OptimizerWeight optimizer_weight(const TensorView& weight, const TensorView& low) {
  if (!low) return {weight.as<float>(), nullptr, nullptr};
  return {nullptr, weight.as<uint16_t>(), low.as<int16_t>()};
}

// The weight after the step of a gradient that has been scaled; m and v become the moments after
// it.
__device__ inline float adamw_value(const AdamWScalars& s, float w, float gradient, float& m,
                                    float& v) {
  m = __fadd_rn(m, __fmul_rn(s.one_minus_beta1, __fsub_rn(gradient, m)));
  v = __fadd_rn(__fmul_rn(s.beta2, v), __fmul_rn(s.one_minus_beta2, __fmul_rn(gradient, gradient)));
  const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), s.bias_correction2_sqrt), s.epsilon);
  return __fsub_rn(__fmul_rn(w, s.decay), __fmul_rn(s.step_size, __fdiv_rn(m, denominator)));
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
