#include <algorithm>

#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/op_gemms.h"

namespace hetmem::ops::cpu {
namespace {

int64_t padded_width(int64_t vocabulary) { return (vocabulary + 15) / 16 * 16; }

}  // namespace

int64_t head_loss_workspace(OpKind, const std::vector<Shape>& inputs) {
  const int64_t rows = head_block_rows(inputs[0].rows());
  return rows * (padded_width(inputs[1][0]) * static_cast<int64_t>(sizeof(float)) +
                 static_cast<int64_t>(sizeof(double)));
}

void head_loss(ThreadPool& pool, const OpCall& call) {
  const bool training = call.kind == OpKind::kHeadLossTrain;
  const TensorView& x = call.inputs[0];
  const TensorView& w = call.inputs[1];
  const auto* labels = call.inputs[2].as<int32_t>();
  const int64_t rows = x.shape.rows();
  const int64_t vocabulary = w.shape[0];
  const int64_t stride = padded_width(vocabulary);
  const int64_t block = head_block_rows(rows);
  auto* logits = static_cast<float*>(call.workspace.data);
  auto* losses = reinterpret_cast<double*>(logits + block * stride);
  const auto scale = static_cast<float>(call.runtime.loss_scale);
  const bool weight_gradient = training && call.outputs.size() > 2;
  const KernelTable& kernels = kernel_table();
  double loss = 0;
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t count = std::min(block, rows - first);
    const float* block_x = x.as<float>() + first * x.row_stride;
    gemm(pool, head_logits_gemm(count, w.shape), block_x, x.row_stride, w.as<float>(), w.row_stride,
         0.0F, logits, stride);
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
    gemm(pool, head_input_gradient_gemm(count, w.shape), logits, stride, w.as<float>(),
         w.row_stride, 0.0F, dx.as<float>() + first * dx.row_stride, dx.row_stride);
    if (!weight_gradient) continue;
    const TensorView& dw = call.outputs[2];
    const float beta = call.runtime.accumulate || first > 0 ? 1.0F : 0.0F;
    gemm(pool, head_weight_gradient_gemm(count, w.shape), logits, stride, block_x, x.row_stride,
         beta, dw.as<float>(), dw.row_stride);
  }
  *call.outputs[0].as<double>() += loss;
}

}  // namespace hetmem::ops::cpu
