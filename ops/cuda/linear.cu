#include <algorithm>

#include "ops/cuda/column_sums.h"
#include "ops/cuda/gemm.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

const LinearParams& params_of(const OpCall& call) { return std::get<LinearParams>(call.params); }

// y += bias + residual, either of which may be missing.
struct AddToProduct {
  float* y;
  int64_t y_stride;
  const float* bias;
  const float* residual;
  int64_t residual_stride;
  int64_t columns;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / columns;
    const int64_t column = i % columns;
    float value = y[row * y_stride + column];
    if (bias != nullptr) value += bias[column];
    if (residual != nullptr) value += residual[row * residual_stride + column];
    y[row * y_stride + column] = value;
  }
};

void add_to_product(const Queue& queue, const TensorView& y, const float* bias,
                    const TensorView& residual) {
  if (bias == nullptr && !residual) return;
  for_each(
      queue, y.elements(),
      AddToProduct{y.as<float>(), y.row_stride, bias, residual ? residual.as<float>() : nullptr,
                   residual.row_stride, y.shape[-1]});
}

void product(const Queue& queue, const OpCall& call, const GemmShape& shape, const TensorView& a,
             const TensorView& b, float beta, const TensorView& c) {
  multiply(queue, params_of(call).bf16, shape, operand_of(a), operand_of(b), beta, result_of(c),
           call.workspace.data);
}

}  // namespace

int64_t linear_workspace(OpKind kind, const LinearParams& params,
                         const std::vector<Shape>& inputs) {
  const bool weight = kind != OpKind::kLinearBackwardWeight;  // is an operand of the product
  const DType b = weight && params.bf16_weight ? DType::kBFloat16 : DType::kFloat32;
  const int64_t bytes =
      multiply_workspace(params.bf16, cpu::gemms_of(kind, params, inputs).front(), b);
  if (kind != OpKind::kLinearBackwardWeight || !params.has_bias) return bytes;
  return std::max(bytes, column_sums_workspace(inputs[1].rows(), inputs[1][-1]));
}

void linear(const Queue& queue, const OpCall& call) {
  const LinearParams& params = params_of(call);
  const TensorView& x = call.inputs[0];
  const TensorView& w = call.inputs[1];
  const TensorView& y = call.outputs[0];
  product(queue, call, cpu::linear_gemm(params, x.shape, w.shape), x, w, 0.0F, y);
  add_to_product(queue, y, params.has_bias ? call.inputs[2].as<float>() : nullptr,
                 params.has_addend ? call.inputs.back() : TensorView{});
}

void linear_backward_input(const Queue& queue, const OpCall& call) {
  const LinearParams& params = params_of(call);
  const TensorView& dy = call.inputs[0];
  const TensorView& w = call.inputs[1];
  const TensorView& dx = call.outputs[0];
  product(queue, call, cpu::linear_backward_input_gemm(params, dy.shape, w.shape), dy, w, 0.0F, dx);
  add_to_product(queue, dx, nullptr, params.has_addend ? call.inputs[2] : TensorView{});
}

void linear_backward_weight(const Queue& queue, const OpCall& call) {
  const LinearParams& params = params_of(call);
  const TensorView& x = call.inputs[0];
  const TensorView& dy = call.inputs[1];
  const TensorView& left = params.weight_in_out ? x : dy;  // dw = left^T right
  const TensorView& right = params.weight_in_out ? dy : x;
  product(queue, call, cpu::linear_backward_weight_gemm(params, x.shape, dy.shape), left, right,
          call.runtime.accumulate ? 1.0F : 0.0F, call.outputs[0]);
  if (!params.has_bias) return;
  column_sums(queue, MatrixTerm{dy.as<float>(), dy.row_stride}, dy.shape.rows(), dy.shape[-1],
              call.outputs[1].as<float>(), call.runtime.accumulate, call.workspace.data);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
