#include "ops/cpu/op_gemms.h"

#include <algorithm>

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

int64_t head_block_rows(int64_t rows) {
  const int64_t half = (rows / 2 + 15) / 16 * 16;
  return std::clamp<int64_t>(half, 1, 256);
}

GemmShape head_logits_gemm(int64_t rows, const Shape& w) { return {rows, w[0], w[1], false, true}; }

GemmShape head_input_gradient_gemm(int64_t rows, const Shape& w) {
  return {rows, w[1], w[0], false, false};
}

GemmShape head_weight_gradient_gemm(int64_t rows, const Shape& w) {
  return {w[0], w[1], rows, true, false};
}

std::vector<GemmShape> gemms_of(OpKind kind, const OpParams& params,
                                const std::vector<Shape>& inputs) {
  switch (kind) {
    case OpKind::kLinear:
      return {linear_gemm(std::get<LinearParams>(params), inputs[0], inputs[1])};
    case OpKind::kLinearBackwardInput:
      return {linear_backward_input_gemm(std::get<LinearParams>(params), inputs[0], inputs[1])};
    case OpKind::kLinearBackwardWeight:
      return {linear_backward_weight_gemm(std::get<LinearParams>(params), inputs[0], inputs[1])};
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain: {
      std::vector<GemmShape> shapes;
      const int64_t rows = inputs[0].rows();
      const int64_t block = head_block_rows(rows);
      for (int64_t first = 0; first < rows; first += block) {
        const int64_t count = std::min(block, rows - first);
        shapes.push_back(head_logits_gemm(count, inputs[1]));
        if (kind == OpKind::kHeadLoss) continue;
        shapes.push_back(head_input_gradient_gemm(count, inputs[1]));
        if (std::get<HeadParams>(params).weight_gradient) {
          shapes.push_back(head_weight_gradient_gemm(count, inputs[1]));
        }
      }
      return shapes;
    }
    default:
      return {};
  }
}

}  // namespace hetmem::ops::cpu
