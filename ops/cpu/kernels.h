// The CPU kernels behind ops::launch: synchronous, on the pool they are given. Operands as in
// core/op.h; `call.workspace` holds cpu::workspace_bytes.
#pragma once

#include "core/op.h"
#include "device/thread_pool.h"
#include "ops/ops.h"

namespace hetmem::ops::cpu {

// Runs any op: a switch over the functions below.
void run(ThreadPool& pool, const OpCall& call);
int64_t workspace_bytes(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs);
// parts.cpp
std::vector<OpPart> parts(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs,
                          int64_t weight_rows, int64_t block_rows);

// linear.cpp
void linear(ThreadPool& pool, const OpCall& call);
void linear_backward_input(ThreadPool& pool, const OpCall& call);
void linear_backward_weight(ThreadPool& pool, const OpCall& call);
int64_t linear_workspace(OpKind kind, const LinearParams& params, const std::vector<Shape>& inputs);
// attention.cpp
void attention(ThreadPool& pool, const OpCall& call);
void attention_backward(ThreadPool& pool, const OpCall& call);
void cached_attention(ThreadPool& pool, const OpCall& call, const KeyValueRows& cache);
// head_loss.cpp
void head_loss(ThreadPool& pool, const OpCall& call);  // kHeadLoss and kHeadLossTrain
int64_t head_loss_workspace(OpKind kind, const HeadParams& params,
                            const std::vector<Shape>& inputs);
// norm.cpp
void layer_norm(ThreadPool& pool, const OpCall& call);
void layer_norm_backward(ThreadPool& pool, const OpCall& call);
void rms_norm(ThreadPool& pool, const OpCall& call);
void rms_norm_backward(ThreadPool& pool, const OpCall& call);
int64_t norm_backward_workspace(OpKind kind, const std::vector<Shape>& inputs);
// elementwise.cpp
void rope(ThreadPool& pool, const OpCall& call);
void gelu(ThreadPool& pool, const OpCall& call);
void gelu_backward(ThreadPool& pool, const OpCall& call);
void swiglu(ThreadPool& pool, const OpCall& call);
void swiglu_backward(ThreadPool& pool, const OpCall& call);
void add(ThreadPool& pool, const OpCall& call);
void dropout(ThreadPool& pool, const OpCall& call);
// embedding.cpp
void embedding(ThreadPool& pool, const OpCall& call);
void embedding_backward(ThreadPool& pool, const OpCall& call);
// optimizer.cpp
void adamw_step(ThreadPool& pool, const AdamWStep& step, const TensorView& weight,
                const TensorView& gradient, const TensorView& m, const TensorView& v,
                const TensorView& low);
void adamw_8bit_step(ThreadPool& pool, const AdamWStep& step, const TensorView& weight,
                     const TensorView& gradient, const TensorView& m, const TensorView& v,
                     const TensorView& low);
void sgd_step(ThreadPool& pool, const SgdStep& step, const TensorView& weight,
              const TensorView& gradient, const TensorView& momentum, const TensorView& low);
void sum_of_squares(ThreadPool& pool, const TensorView& values, const TensorView& sum,
                    bool accumulate);

}  // namespace hetmem::ops::cpu
