// What an AdamW step needs of its scalars, made once a call on the host and in one place, so that
// the bits are the same on every device.
#pragma once

namespace hetmem::ops {

struct AdamWStep;

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

}  // namespace hetmem::ops
