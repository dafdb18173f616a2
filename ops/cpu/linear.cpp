#include <algorithm>

#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/op_gemms.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kBiasRows = 64;  // rows summed in one block of the bias gradient

const LinearParams& params_of(const OpCall& call) { return std::get<LinearParams>(call.params); }

// dbias = the column sums of dy: by blocks of rows into the workspace, then the blocks in order.
void bias_gradient(ThreadPool& pool, const TensorView& dy, const TensorView& dbias,
                   const TensorView& workspace, bool accumulate) {
  const int64_t rows = dy.shape.rows();
  const int64_t n = dy.shape[-1];
  const int64_t blocks = (rows + kBiasRows - 1) / kBiasRows;
  const float* source = dy.as<float>();
  auto* partial = static_cast<float*>(workspace.data);
  const KernelTable& kernels = kernel_table();
  pool.parallel_for(blocks, [&](int64_t block) {
    float* sum = partial + block * n;
    std::fill(sum, sum + n, 0.0F);
    for (int64_t row = block * kBiasRows; row < std::min(rows, (block + 1) * kBiasRows); ++row) {
      kernels.add_bias(source + row * dy.row_stride, sum, n);
    }
  });
  auto* total = dbias.as<float>();
  if (!accumulate) std::fill(total, total + n, 0.0F);
  for (int64_t block = 0; block < blocks; ++block) kernels.add_bias(partial + block * n, total, n);
}

// The op's product, in the dtype that its parameters say. Operands that are rounded or widened lie
// in the workspace, which is free again when this returns.
void multiply(ThreadPool& pool, const OpCall& call, const GemmShape& shape, const TensorView& a,
              const TensorView& b, float beta, const TensorView& c, const GemmEpilogue& epilogue) {
  if (params_of(call).bf16) {
    return gemm_bf16(pool, shape, a.as<float>(), a.row_stride, {b.data, b.row_stride, b.dtype},
                     beta, c.as<float>(), c.row_stride, call.workspace.data, epilogue);
  }
  gemm(pool, shape, a.as<float>(), a.row_stride, b.as<float>(), b.row_stride, beta, c.as<float>(),
       c.row_stride, epilogue);
}

}  // namespace

int64_t linear_workspace(OpKind kind, const LinearParams& params,
                         const std::vector<Shape>& inputs) {
  int64_t bytes = 0;
  if (kind == OpKind::kLinearBackwardWeight && params.has_bias) {
    bytes = (inputs[1].rows() + kBiasRows - 1) / kBiasRows * inputs[1][-1] *
            static_cast<int64_t>(sizeof(float));
  }
  if (!params.bf16) return bytes;
  const bool weight = kind != OpKind::kLinearBackwardWeight;  // is an operand of the product
  const DType b = weight && params.bf16_weight ? DType::kBFloat16 : DType::kFloat32;
  return std::max(bytes, gemm_bf16_workspace(gemms_of(kind, params, inputs).front(), b));
}

void linear(ThreadPool& pool, const OpCall& call) {
  const LinearParams& params = params_of(call);
  const TensorView& x = call.inputs[0];
  const TensorView& w = call.inputs[1];
  const TensorView& y = call.outputs[0];
  const float* bias = params.has_bias ? call.inputs[2].as<float>() : nullptr;
  const TensorView residual = params.has_addend ? call.inputs.back() : TensorView{};
  auto* out = y.as<float>();
  const KernelTable& kernels = kernel_table();
  const GemmShape shape = linear_gemm(params, x.shape, w.shape);
  GemmEpilogue epilogue;
  if (params.has_bias || params.has_addend) {
    epilogue = [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
      for (int64_t r = row; r < row + rows; ++r) {
        float* at = out + r * y.row_stride + column;
        if (bias != nullptr) kernels.add_bias(bias + column, at, columns);
        if (residual) {
          kernels.add_bias(residual.as<float>() + r * residual.row_stride + column, at, columns);
        }
      }
    };
  }
  multiply(pool, call, shape, x, w, 0.0F, y, epilogue);
}

void linear_backward_input(ThreadPool& pool, const OpCall& call) {
  const LinearParams& params = params_of(call);
  const TensorView& dy = call.inputs[0];
  const TensorView& w = call.inputs[1];
  const TensorView addend = params.has_addend ? call.inputs[2] : TensorView{};
  const TensorView& dx = call.outputs[0];
  auto* out = dx.as<float>();
  const KernelTable& kernels = kernel_table();
  const GemmShape shape = linear_backward_input_gemm(params, dy.shape, w.shape);
  GemmEpilogue epilogue;
  if (addend) {
    epilogue = [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
      for (int64_t r = row; r < row + rows; ++r) {
        kernels.add_bias(addend.as<float>() + r * addend.row_stride + column,
                         out + r * dx.row_stride + column, columns);
      }
    };
  }
  multiply(pool, call, shape, dy, w, 0.0F, dx, epilogue);
}

void linear_backward_weight(ThreadPool& pool, const OpCall& call) {
  const LinearParams& params = params_of(call);
  const TensorView& x = call.inputs[0];
  const TensorView& dy = call.inputs[1];
  const TensorView& dw = call.outputs[0];
  const float beta = call.runtime.accumulate ? 1.0F : 0.0F;
  const TensorView& left = params.weight_in_out ? x : dy;  // dw = left^T right
  const TensorView& right = params.weight_in_out ? dy : x;
  const GemmShape shape = linear_backward_weight_gemm(params, x.shape, dy.shape);
  multiply(pool, call, shape, left, right, beta, dw, {});
  if (params.has_bias) {
    bias_gradient(pool, dy, call.outputs[1], call.workspace, call.runtime.accumulate);
  }
}

}  // namespace hetmem::ops::cpu
