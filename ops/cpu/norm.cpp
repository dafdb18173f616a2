#include <algorithm>

#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kRows = 32;       // rows of a forward task
constexpr int64_t kMaxBlocks = 64;  // partial sums of a weight gradient

// Rows of one partial sum: a function of the shape alone.
int64_t block_rows(int64_t rows) {
  return std::max<int64_t>(16, (rows + kMaxBlocks - 1) / kMaxBlocks);
}
int64_t blocks_of(int64_t rows) { return (rows + block_rows(rows) - 1) / block_rows(rows); }

float epsilon_of(const OpCall& call) { return std::get<NormParams>(call.params).epsilon; }

// Adds up the partial sums in order: parts are [blocks][vectors][n], `vector` is which.
void reduce(const float* parts, int64_t blocks, int64_t vectors, int64_t vector, int64_t n,
            const TensorView& gradient, bool accumulate) {
  auto* sum = gradient.as<float>();
  if (!accumulate) std::fill(sum, sum + n, 0.0F);
  for (int64_t block = 0; block < blocks; ++block) {
    kernel_table().add_bias(parts + (block * vectors + vector) * n, sum, n);
  }
}

}  // namespace

int64_t norm_backward_workspace(OpKind kind, const std::vector<Shape>& inputs) {
  const int64_t n = inputs[2][0];
  const int64_t vectors = kind == OpKind::kLayerNormBackward ? 2 : 1;
  return blocks_of(inputs[1].elements() / n) * vectors * n * static_cast<int64_t>(sizeof(float));
}

void layer_norm(ThreadPool& pool, const OpCall& call) {
  const TensorView& x = call.inputs[0];
  const int64_t n = x.shape[-1];
  const auto* w = call.inputs[1].as<float>();
  const auto* b = call.inputs[2].as<float>();
  auto* y = call.outputs[0].as<float>();
  auto* stats = static_cast<NormRow*>(call.outputs[1].data);
  const float epsilon = epsilon_of(call);
  pool.parallel_blocks(x.shape.rows(), kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      stats[row] =
          kernel_table().layer_norm_row(x.as<float>() + row * n, w, b, epsilon, y + row * n, n);
    }
  });
}

void rms_norm(ThreadPool& pool, const OpCall& call) {
  const TensorView& x = call.inputs[0];
  const int64_t n = call.inputs[1].shape[0];
  const auto* w = call.inputs[1].as<float>();
  auto* y = call.outputs[0].as<float>();
  auto* rstd = call.outputs[1].as<float>();
  const float epsilon = epsilon_of(call);
  pool.parallel_blocks(x.elements() / n, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      rstd[row] = kernel_table().rms_norm_row(x.as<float>() + row * n, w, epsilon, y + row * n, n);
    }
  });
}

void layer_norm_backward(ThreadPool& pool, const OpCall& call) {
  const auto* dy = call.inputs[0].as<float>();
  const TensorView& x = call.inputs[1];
  const auto* w = call.inputs[2].as<float>();
  const auto* stats = static_cast<const NormRow*>(call.inputs[3].data);
  const bool has_addend = std::get<NormParams>(call.params).has_addend;
  const auto* addend = has_addend ? call.inputs[4].as<float>() : nullptr;
  auto* dx = call.outputs[0].as<float>();
  const int64_t n = x.shape[-1];
  const int64_t rows = x.shape.rows();
  auto* parts = static_cast<float*>(call.workspace.data);
  pool.parallel_blocks(rows, block_rows(rows), [&](int64_t begin, int64_t end) {
    float* dw = parts + begin / block_rows(rows) * 2 * n;
    std::fill(dw, dw + 2 * n, 0.0F);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * n;
      kernel_table().layer_norm_backward_row(dy + at, x.as<float>() + at, w, stats[row],
                                             has_addend ? addend + at : nullptr, dx + at, dw,
                                             dw + n, n);
    }
  });
  reduce(parts, blocks_of(rows), 2, 0, n, call.outputs[1], call.runtime.accumulate);
  reduce(parts, blocks_of(rows), 2, 1, n, call.outputs[2], call.runtime.accumulate);
}

void rms_norm_backward(ThreadPool& pool, const OpCall& call) {
  const auto* dy = call.inputs[0].as<float>();
  const TensorView& x = call.inputs[1];
  const auto* w = call.inputs[2].as<float>();
  const auto* rstd = call.inputs[3].as<float>();
  const bool has_addend = std::get<NormParams>(call.params).has_addend;
  const auto* addend = has_addend ? call.inputs[4].as<float>() : nullptr;
  auto* dx = call.outputs[0].as<float>();
  const int64_t n = call.inputs[2].shape[0];
  const int64_t rows = x.elements() / n;
  auto* parts = static_cast<float*>(call.workspace.data);
  pool.parallel_blocks(rows, block_rows(rows), [&](int64_t begin, int64_t end) {
    float* dw = parts + begin / block_rows(rows) * n;
    std::fill(dw, dw + n, 0.0F);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * n;
      kernel_table().rms_norm_backward_row(dy + at, x.as<float>() + at, w, rstd[row],
                                           has_addend ? addend + at : nullptr, dx + at, dw, n);
    }
  });
  reduce(parts, blocks_of(rows), 1, 0, n, call.outputs[1], call.runtime.accumulate);
}

}  // namespace hetmem::ops::cpu
