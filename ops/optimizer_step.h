// The scalars of optimizer steps: what callers give, and what the kernels make of it, once a call
// on the host and in one place, so that the bits are the same on every device. Values only.
#pragma once

namespace hetmem::ops {

// One AdamW step (Loshchilov & Hutter 2019) as PyTorch's fused form computes it, in fp32 and in one
// written order of +, -, *, /, sqrt, so that the bits are the same on every device.
struct AdamWStep {
  float learning_rate = 0;
  float beta1 = 0.9F;
  float beta2 = 0.999F;
  float epsilon = 1e-8F;
  float weight_decay = 0;
  float bias_correction1 = 1;       // 1 - beta1^t
  float bias_correction2_sqrt = 1;  // sqrt(1 - beta2^t)
  float gradient_scale = 1;         // the clipping coefficient
};

// PyTorch's SGD: buffer = momentum * buffer + g (the first step sets it to g), w -= rate * buffer.
struct SgdStep {
  float learning_rate = 0;
  float momentum = 0.9F;
  float weight_decay = 0;
  float gradient_scale = 1;
  bool first = false;
};

// What an AdamW step needs of its scalars.
struct AdamWScalars {
  float beta1;
  float beta2;
  float one_minus_beta1;
  float one_minus_beta2;
  float step_size;  // learning rate / bias correction 1
  float decay;      // 1 - learning rate * weight decay
  float bias_correction2_sqrt;
  float epsilon;
  float gradient_scale;
};

AdamWScalars scalars_of(const AdamWStep& step);

// The same step but for rounding, without a correction of v to divide by: that of m and epsilon
// make up for it, m / (sqrt(v) / c + e) = c m / (sqrt(v) + c e). For steps that are bound by
// arithmetic.
AdamWStep without_second_correction(const AdamWStep& step);

}  // namespace hetmem::ops
