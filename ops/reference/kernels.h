// The reference ops one by one; reference.h runs any of them. Stateless.
#pragma once

#include <cstdint>

#include "core/op.h"

namespace hetmem::ops::reference {

// A view as rows of numbers.
struct Rows {
  explicit Rows(const TensorView& view)
      : data(view.as<double>()),
        stride(view.row_stride),
        count(view.shape.rows()),
        width(view.shape[-1]) {}
  double& operator()(int64_t row, int64_t column) const { return data[row * stride + column]; }

  double* data;
  int64_t stride;
  int64_t count;
  int64_t width;
};

// matrix.cpp
void embedding(const OpCall& call);
void embedding_backward(const OpCall& call);
void linear(const OpCall& call);
void linear_backward_input(const OpCall& call);
void linear_backward_weight(const OpCall& call);
// head_loss.cpp
void head_loss(const OpCall& call);  // kHeadLoss and kHeadLossTrain
// norm.cpp
void layer_norm(const OpCall& call);
void layer_norm_backward(const OpCall& call);
void rms_norm(const OpCall& call);
void rms_norm_backward(const OpCall& call);
// attention.cpp
void attention(const OpCall& call);
void attention_backward(const OpCall& call);
// elementwise.cpp
void rope(const OpCall& call);
void gelu(const OpCall& call);
void gelu_backward(const OpCall& call);
void swiglu(const OpCall& call);
void swiglu_backward(const OpCall& call);
void add(const OpCall& call);
void dropout(const OpCall& call);

// What dropout multiplies element `index` of a site with: 0 or 1 / (1 - p).
double dropout_factor(const OpRuntime& runtime, float p, uint32_t site, int64_t index);

}  // namespace hetmem::ops::reference
