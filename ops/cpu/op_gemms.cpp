#include "ops/cpu/op_gemms.h"

#include <algorithm>

#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {

GemmShape linear_gemm(const LinearParams& params, const Shape& x, const Shape& w) {
  return {x.rows(), w[params.weight_in_out ? 1 : 0], x[-1], false, !params.weight_in_out};
}

GemmShape linear_backward_input_gemm(const LinearParams& params, const Shape& dy, const Shape& w) {
  return {dy.rows(), w[params.weight_in_out ? 0 : 1], dy[-1], false, params.weight_in_out};
}

GemmShape linear_backward_weight_gemm(const LinearParams& params, const Shape& x, const Shape& dy) {
  const Shape& left = params.weight_in_out ? x : dy;  // dw = left^T right
  const Shape& right = params.weight_in_out ? dy : x;
  return {left[-1], right[-1], x.rows(), true, false};
}

int64_t head_token_block(int64_t tokens) {
  const int64_t half = (tokens / 2 + 15) / 16 * 16;
  return std::clamp<int64_t>(half, 1, 256);
}

GemmShape head_logits_gemm(int64_t rows, const Shape& w) { return {rows, w[0], w[1], false, true}; }

GemmShape head_input_gradient_gemm(int64_t rows, const Shape& w) {
  return {rows, w[1], w[0], false, false};
}

GemmShape head_weight_gradient_gemm(int64_t rows, const Shape& w) {
  return {w[0], w[1], rows, true, false};
}

namespace {

std::vector<GemmShape> head_gemms(OpKind kind, const OpParams& params,
                                  const std::vector<Shape>& inputs, int64_t block_rows) {
  std::vector<GemmShape> shapes;
  const Shape& w = inputs[1];
  for (const OpPart& part : parts(kind, params, inputs, w[0], block_rows)) {
    const Shape block{part.rows, w[1]};
    if (part.stage == HeadStage::kLogits) {
      shapes.push_back(head_logits_gemm(part.tokens, block));
    } else if (part.stage == HeadStage::kGradients) {
      shapes.push_back(head_input_gradient_gemm(part.tokens, block));
      if (!std::get<HeadParams>(params).weight_gradient) continue;
      shapes.push_back(head_weight_gradient_gemm(part.tokens, block));
    }
  }
  return shapes;
}

}  // namespace

std::vector<GemmShape> gemms_of(OpKind kind, const OpParams& params,
                                const std::vector<Shape>& inputs, int64_t block_rows) {
  switch (kind) {
    case OpKind::kLinear:
      return {linear_gemm(std::get<LinearParams>(params), inputs[0], inputs[1])};
    case OpKind::kLinearBackwardInput:
      return {linear_backward_input_gemm(std::get<LinearParams>(params), inputs[0], inputs[1])};
    case OpKind::kLinearBackwardWeight:
      return {linear_backward_weight_gemm(std::get<LinearParams>(params), inputs[0], inputs[1])};
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return head_gemms(kind, params, inputs, block_rows);
    default:
      return {};
  }
}

}  // namespace hetmem::ops::cpu
