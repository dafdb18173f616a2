#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

void run(const Queue& queue, const OpCall& call) {
  switch (call.kind) {
    case OpKind::kEmbedding:
      return embedding(queue, call);
    case OpKind::kEmbeddingBackward:
      return embedding_backward(queue, call);
    case OpKind::kLinear:
      return linear(queue, call);
    case OpKind::kLinearBackwardInput:
      return linear_backward_input(queue, call);
    case OpKind::kLinearBackwardWeight:
      return linear_backward_weight(queue, call);
    case OpKind::kLayerNorm:
      return layer_norm(queue, call);
    case OpKind::kLayerNormBackward:
      return layer_norm_backward(queue, call);
    case OpKind::kRmsNorm:
      return rms_norm(queue, call);
    case OpKind::kRmsNormBackward:
      return rms_norm_backward(queue, call);
    case OpKind::kRope:
      return rope(queue, call);
    case OpKind::kAttention:
      return attention(queue, call);
    case OpKind::kAttentionBackward:
      return attention_backward(queue, call);
    case OpKind::kGelu:
      return gelu(queue, call);
    case OpKind::kGeluBackward:
      return gelu_backward(queue, call);
    case OpKind::kSwiglu:
      return swiglu(queue, call);
    case OpKind::kSwigluBackward:
      return swiglu_backward(queue, call);
    case OpKind::kAdd:
      return add(queue, call);
    case OpKind::kDropout:
      return dropout(queue, call);
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return head_loss(queue, call);
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
      return norm_backward_workspace(inputs);
    case OpKind::kAttentionBackward:
      return attention_backward_workspace(std::get<AttentionParams>(params), inputs);
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return head_loss_workspace(kind, std::get<HeadParams>(params), inputs);
    default:
      return 0;
  }
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
