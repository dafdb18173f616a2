#include <algorithm>

#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/op_gemms.h"

namespace hetmem::ops::cpu {
namespace {

int64_t padded_width(int64_t vocabulary) { return (vocabulary + 15) / 16 * 16; }

// The workspace: logits and losses of a block of rows, and the rounded operands of a product.
struct Room {
  Room(const HeadParams& params, OpKind kind, const std::vector<Shape>& inputs)
      : rows(head_block_rows(inputs[0].rows())), stride(padded_width(inputs[1][0])) {
    constexpr int64_t kAlignment = 64;
    const int64_t block = rows * (stride * static_cast<int64_t>(sizeof(float)) +
                                  static_cast<int64_t>(sizeof(double)));
    products_at = (block + kAlignment - 1) / kAlignment * kAlignment;
    bytes = block;
    if (!params.bf16) return;
    for (const GemmShape& shape : gemms_of(kind, params, inputs)) {
      bytes = std::max(bytes, products_at + gemm_bf16_workspace(shape));
    }
  }
  int64_t rows;
  int64_t stride;
  int64_t products_at;
  int64_t bytes;
};

struct Matrix {
  float* data;
  int64_t stride;
};

}  // namespace

int64_t head_loss_workspace(OpKind kind, const HeadParams& params,
                            const std::vector<Shape>& inputs) {
  return Room(params, kind, inputs).bytes;
}

void head_loss(ThreadPool& pool, const OpCall& call) {
  const auto& params = std::get<HeadParams>(call.params);
  const bool training = call.kind == OpKind::kHeadLossTrain;
  const TensorView& x = call.inputs[0];
  const TensorView& w = call.inputs[1];
  const auto* labels = call.inputs[2].as<int32_t>();
  const int64_t rows = x.shape.rows();
  const int64_t vocabulary = w.shape[0];
  const Room room(params, call.kind, {x.shape, w.shape});
  const int64_t stride = room.stride;
  auto* logits = static_cast<float*>(call.workspace.data);
  auto* losses = reinterpret_cast<double*>(logits + room.rows * stride);
  auto* products = static_cast<std::byte*>(call.workspace.data) + room.products_at;
  const auto multiply = [&](const GemmShape& shape, const Matrix& a, const Matrix& b, float beta,
                            const Matrix& c) {
    if (params.bf16) {
      return gemm_bf16(pool, shape, a.data, a.stride, b.data, b.stride, beta, c.data, c.stride,
                       products);
    }
    gemm(pool, shape, a.data, a.stride, b.data, b.stride, beta, c.data, c.stride);
  };
  const auto scale = static_cast<float>(call.runtime.loss_scale);
  const bool weight_gradient = training && call.outputs.size() > 2;
  const KernelTable& kernels = kernel_table();
  const Matrix weight{w.as<float>(), w.row_stride};
  double loss = 0;
  for (int64_t first = 0; first < rows; first += room.rows) {
    const int64_t count = std::min(room.rows, rows - first);
    const Matrix block{x.as<float>() + first * x.row_stride, x.row_stride};
    multiply(head_logits_gemm(count, w.shape), block, weight, 0.0F, {logits, stride});
    pool.parallel_for(count, [&](int64_t row) {
      const int32_t label = labels[first + row];
      float* at = logits + row * stride;
      losses[row] = 0.0;
      if (label >= 0) {
        losses[row] = kernels.cross_entropy_row(at, vocabulary, label, scale, training);
      } else if (training) {
        std::fill(at, at + vocabulary, 0.0F);
      }
    });
    for (int64_t row = 0; row < count; ++row) loss += losses[row];
    if (!training) continue;
    const TensorView& dx = call.outputs[1];
    multiply(head_input_gradient_gemm(count, w.shape), {logits, stride}, weight, 0.0F,
             {dx.as<float>() + first * dx.row_stride, dx.row_stride});
    if (!weight_gradient) continue;
    const TensorView& dw = call.outputs[2];
    const float beta = call.runtime.accumulate || first > 0 ? 1.0F : 0.0F;
    multiply(head_weight_gradient_gemm(count, w.shape), {logits, stride}, block, beta,
             {dw.as<float>(), dw.row_stride});
  }
  *call.outputs[0].as<double>() += loss;
}

}  // namespace hetmem::ops::cpu
