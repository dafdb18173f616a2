// Optimizer steps: one written order of correctly rounded operations, no fused ones, so that the
// bits are the same everywhere (ops/cuda/optimizer.cu has the same order).
#include "core/split_master.h"
#include "ops/cpu/isa/adamw.h"
#include "ops/cpu/isa/row_kernels.h"
#include "ops/cpu/isa/vector_math.h"

namespace hetmem::ops::cpu::HETMEM_ISA {

void adamw(const AdamWScalars& scalars, float* w, const float* g, float* m, float* v, int64_t n) {
  const AdamW step{scalars};
  for (int64_t i = 0; i < n; ++i) {
    float moment1 = m[i];
    float moment2 = v[i];
    step.moments(g[i], moment1, moment2);
    m[i] = moment1;
    v[i] = moment2;
    w[i] = step.weight(w[i], moment1, moment2);
  }
}

void sgd(const SgdStep& of, float* w, const float* g, float* buffer, int64_t n) {
  const SgdStep step = of;
  for (int64_t i = 0; i < n; ++i) {
    const float d = g[i] * step.gradient_scale + step.weight_decay * w[i];
    const float moved = step.first ? d : step.momentum * buffer[i] + d;
    buffer[i] = moved;
    w[i] = w[i] - step.learning_rate * moved;
  }
}

void join_masters(const uint16_t* hi, const int16_t* lo, float* w, int64_t n) {
  for (int64_t i = 0; i < n; ++i) w[i] = join_master(hi[i], lo[i]);
}

void split_masters(const float* w, uint16_t* hi, int16_t* lo, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const SplitMaster split = split_master(w[i]);
    hi[i] = split.hi;
    lo[i] = split.lo;
  }
}

double sum_of_squares(const float* x, int64_t n) {
  return sum_over<double>(n, [=](int64_t i) {
    const auto value = static_cast<double>(x[i]);
    return value * value;
  });
}

}  // namespace hetmem::ops::cpu::HETMEM_ISA
