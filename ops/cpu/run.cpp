#include "core/error.h"
#include "core/trace.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {

void run(ThreadPool& pool, const OpCall& call) {
  const trace::Range range("compute", name_of(call.kind));
  switch (call.kind) {
    case OpKind::kEmbedding:
      return embedding(pool, call);
    case OpKind::kEmbeddingBackward:
      return embedding_backward(pool, call);
    case OpKind::kLinear:
      return linear(pool, call);
    case OpKind::kLinearBackwardInput:
      return linear_backward_input(pool, call);
    case OpKind::kLinearBackwardWeight:
      return linear_backward_weight(pool, call);
    case OpKind::kLayerNorm:
      return layer_norm(pool, call);
    case OpKind::kLayerNormBackward:
      return layer_norm_backward(pool, call);
    case OpKind::kRmsNorm:
      return rms_norm(pool, call);
    case OpKind::kRmsNormBackward:
      return rms_norm_backward(pool, call);
    case OpKind::kRope:
      return rope(pool, call);
    case OpKind::kAttention:
      return attention(pool, call);
    case OpKind::kAttentionBackward:
      return attention_backward(pool, call);
    case OpKind::kGelu:
      return gelu(pool, call);
    case OpKind::kGeluBackward:
      return gelu_backward(pool, call);
    case OpKind::kSwiglu:
      return swiglu(pool, call);
    case OpKind::kSwigluBackward:
      return swiglu_backward(pool, call);
    case OpKind::kAdd:
      return add(pool, call);
    case OpKind::kDropout:
      return dropout(pool, call);
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return head_loss(pool, call);
  }
}

int64_t workspace_bytes(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs) {
  switch (kind) {
    case OpKind::kLinear:
    case OpKind::kLinearBackwardInput:
    case OpKind::kLinearBackwardWeight:
      return linear_workspace(kind, std::get<LinearParams>(params), inputs);
    case OpKind::kLayerNormBackward:
    case OpKind::kRmsNormBackward:
      return norm_backward_workspace(kind, inputs);
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return head_loss_workspace(kind, std::get<HeadParams>(params), inputs);
    default:
      return 0;
  }
}

}  // namespace hetmem::ops::cpu
