#include <algorithm>

#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kRows = 64;
constexpr int64_t kColumns = 64;  // columns of a task of the gradient
constexpr int64_t kClearRows = 4096;

}  // namespace

void embedding(ThreadPool& pool, const OpCall& call) {
  const auto* tokens = call.inputs[0].as<int32_t>();
  const auto* table = call.inputs[1].as<float>();
  const bool has_positions = std::get<EmbeddingParams>(call.params).has_positions;
  const auto* positions = has_positions ? call.inputs[2].as<float>() : nullptr;
  const TensorView& y = call.outputs[0];
  const int64_t width = y.shape[-1];
  const int64_t time = y.shape[1];
  auto* out = y.as<float>();
  pool.parallel_blocks(y.shape.rows(), kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = table + tokens[row] * width;
      float* to = out + row * width;
      if (has_positions) {
        kernel_table().add(from, positions + row % time * width, to, width);
      } else {
        std::copy(from, from + width, to);
      }
    }
  });
}

// Each task takes some columns of every token, in the order of the tokens: the order of the sums is
// fixed, whoever makes them.
void embedding_backward(ThreadPool& pool, const OpCall& call) {
  const auto& params = std::get<EmbeddingParams>(call.params);
  const auto* tokens = call.inputs[0].as<int32_t>();
  const TensorView& dy = call.inputs[1];
  const int64_t width = dy.shape[-1];
  const int64_t time = dy.shape[1];
  const int64_t rows = dy.shape.rows();
  const TensorView& dtable = call.outputs[0];
  auto* table = dtable.as<float>();
  if (!call.runtime.accumulate && !params.accumulate_table) {
    pool.parallel_blocks(dtable.shape[0], kClearRows, [&](int64_t begin, int64_t end) {
      std::fill(table + begin * width, table + end * width, 0.0F);
    });
  }
  float* positions = params.has_positions ? call.outputs[1].as<float>() : nullptr;
  if (positions != nullptr && !call.runtime.accumulate) {
    std::fill(positions, positions + call.outputs[1].elements(), 0.0F);
  }
  pool.parallel_blocks(width, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = dy.as<float>() + row * width + begin;
      kernel_table().add_bias(from, table + tokens[row] * width + begin, end - begin);
      if (positions != nullptr) {
        kernel_table().add_bias(from, positions + row % time * width + begin, end - begin);
      }
    }
  });
}

}  // namespace hetmem::ops::cpu
