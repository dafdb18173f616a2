#include "ops/optimizer_step.h"

namespace hetmem::ops {

AdamWScalars scalars_of(const AdamWStep& step) {
  return {step.beta1,
          step.beta2,
          1.0F - step.beta1,
          1.0F - step.beta2,
          step.learning_rate / step.bias_correction1,
          1.0F - step.learning_rate * step.weight_decay,
          step.bias_correction2_sqrt,
          step.epsilon,
          step.gradient_scale};
}

AdamWStep without_second_correction(const AdamWStep& step) {
  AdamWStep folded = step;
  folded.bias_correction1 = step.bias_correction1 / step.bias_correction2_sqrt;
  folded.epsilon = step.epsilon * step.bias_correction2_sqrt;
  folded.bias_correction2_sqrt = 1;
  return folded;
}

}  // namespace hetmem::ops
