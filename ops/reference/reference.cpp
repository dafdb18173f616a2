#include "ops/reference/reference.h"

#include "ops/reference/kernels.h"

namespace hetmem::ops::reference {

void run(const OpCall& call) {
  switch (call.kind) {
    case OpKind::kEmbedding:
      return embedding(call);
    case OpKind::kEmbeddingBackward:
      return embedding_backward(call);
    case OpKind::kLinear:
      return linear(call);
    case OpKind::kLinearBackwardInput:
      return linear_backward_input(call);
    case OpKind::kLinearBackwardWeight:
      return linear_backward_weight(call);
    case OpKind::kLayerNorm:
      return layer_norm(call);
    case OpKind::kLayerNormBackward:
      return layer_norm_backward(call);
    case OpKind::kRmsNorm:
      return rms_norm(call);
    case OpKind::kRmsNormBackward:
      return rms_norm_backward(call);
    case OpKind::kRope:
      return rope(call);
    case OpKind::kAttention:
      return attention(call);
    case OpKind::kAttentionBackward:
      return attention_backward(call);
    case OpKind::kGelu:
      return gelu(call);
    case OpKind::kGeluBackward:
      return gelu_backward(call);
    case OpKind::kSwiglu:
      return swiglu(call);
    case OpKind::kSwigluBackward:
      return swiglu_backward(call);
    case OpKind::kAdd:
      return add(call);
    case OpKind::kDropout:
      return dropout(call);
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return head_loss(call);
  }
}

}  // namespace hetmem::ops::reference
