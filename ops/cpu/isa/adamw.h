// One AdamW step, of a number or of a vector of them: one written order of correctly rounded
// operations, no fused ones, so that the bits are the same everywhere (ops/cuda/adamw.h has the
// same order). Included by the sources of ops/cpu/isa only.
#pragma once

#include "ops/cpu/isa/vector_math.h"
#include "ops/optimizer_step.h"

namespace hetmem::ops::cpu::HETMEM_ISA {

struct AdamW {
  // The moments after the step.
  template <typename Real>
  void moments(Real g, Real& m, Real& v) const {
    moments_of_scaled(g * s.gradient_scale, m, v);
  }
  // The same of a gradient that has been scaled.
  template <typename Real>
  void moments_of_scaled(Real gradient, Real& m, Real& v) const {
    m = m + s.one_minus_beta1 * (gradient - m);
    v = s.beta2 * v + s.one_minus_beta2 * (gradient * gradient);
  }
  // The weight after it, of these moments.
  template <typename Real>
  Real weight(Real w, Real m, Real v) const {
    const Real denominator = square_root(v) / s.bias_correction2_sqrt + s.epsilon;
    return w * s.decay - s.step_size * (m / denominator);
  }
  // The same where the correction of v is 1.
  Vector weight_uncorrected(Vector w, Vector m, Vector v) const {
    return w * s.decay - s.step_size * (m / (square_root(v) + s.epsilon));
  }

  AdamWScalars s;
};

}  // namespace hetmem::ops::cpu::HETMEM_ISA
