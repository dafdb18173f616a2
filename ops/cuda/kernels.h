// The ops of the CUDA backend, one by one; run() is a switch over them. Each enqueues its kernels
// and returns. Operands as in core/op.h, in device memory; `call.workspace` holds workspace_bytes.
// Nothing here allocates device memory or waits.
#pragma once

#include <cstdint>
#include <vector>

#include "core/op.h"
#include "ops/cuda/kernel.h"
#include "ops/ops.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

void run(const Queue& queue, const OpCall& call);
int64_t workspace_bytes(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs);

// linear.cu
void linear(const Queue& queue, const OpCall& call);
void linear_backward_input(const Queue& queue, const OpCall& call);
void linear_backward_weight(const Queue& queue, const OpCall& call);
int64_t linear_workspace(OpKind kind, const LinearParams& params, const std::vector<Shape>& inputs);
// attention.cu, attention_backward.cu
void attention(const Queue& queue, const OpCall& call);
void cached_attention(const Queue& queue, const OpCall& call, const KeyValueRows& cache);
void attention_backward(const Queue& queue, const OpCall& call);
int64_t attention_backward_workspace(const AttentionParams& params,
                                     const std::vector<Shape>& inputs);
// head_loss.cu
void head_loss(const Queue& queue, const OpCall& call);  // kHeadLoss and kHeadLossTrain
int64_t head_loss_workspace(OpKind kind, const HeadParams& params,
                            const std::vector<Shape>& inputs);
// norm.cu
void layer_norm(const Queue& queue, const OpCall& call);
void layer_norm_backward(const Queue& queue, const OpCall& call);
void rms_norm(const Queue& queue, const OpCall& call);
void rms_norm_backward(const Queue& queue, const OpCall& call);
int64_t norm_backward_workspace(const std::vector<Shape>& inputs);
// elementwise.cu
void rope(const Queue& queue, const OpCall& call);
void gelu(const Queue& queue, const OpCall& call);
void gelu_backward(const Queue& queue, const OpCall& call);
void swiglu(const Queue& queue, const OpCall& call);
void swiglu_backward(const Queue& queue, const OpCall& call);
void add(const Queue& queue, const OpCall& call);
void dropout(const Queue& queue, const OpCall& call);
// embedding.cu
void embedding(const Queue& queue, const OpCall& call);
void embedding_backward(const Queue& queue, const OpCall& call);
// optimizer.cu
void adamw_step(const Queue& queue, const AdamWStep& step, const TensorView& weight,
                const TensorView& gradient, const TensorView& m, const TensorView& v,
                const TensorView& low);
void adamw_8bit_step(const Queue& queue, const AdamWStep& step, const TensorView& weight,
                     const TensorView& gradient, const TensorView& m, const TensorView& v,
                     const TensorView& low);
void sgd_step(const Queue& queue, const SgdStep& step, const TensorView& weight,
              const TensorView& gradient, const TensorView& momentum, const TensorView& low);
// `parts` is memory for kSumsAtOnce doubles.
constexpr int64_t kSumsAtOnce = 2048;
void sum_of_squares(const Queue& queue, const TensorView& values, const TensorView& sum,
                    bool accumulate, double* parts);

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
