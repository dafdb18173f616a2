#include <algorithm>

#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kRows = 64;
constexpr int64_t kColumns = 64;  // columns of a task of the gradient
constexpr int64_t kClearRows = 4096;

// The rows of the table that a call has: all of them, or a block.
struct Block {
  Block(const OpCall& call, const TensorView& table)
      : first(call.part.first_row), rows(table.shape[0]) {}
  bool has(int32_t token) const { return token >= first && token < first + rows; }

  int64_t first;
  int64_t rows;
};

// Rows of an embedding table, which may be stored in bf16.
struct Table {
  explicit Table(const TensorView& of) : view(of), width(of.shape[1]) {}
  void copy_row(int64_t row, float* to) const {
    if (view.dtype == DType::kBFloat16) {
      kernel_table().from_bf16(view.as<uint16_t>() + row * width, to, width);
    } else {
      const float* from = view.as<float>() + row * width;
      std::copy(from, from + width, to);
    }
  }
  void add_row(int64_t row, float* to) const {
    if (view.dtype == DType::kBFloat16) {
      kernel_table().add_bf16(view.as<uint16_t>() + row * width, to, width);
    } else {
      kernel_table().add_bias(view.as<float>() + row * width, to, width);
    }
  }

  TensorView view;
  int64_t width;
};

}  // namespace

void embedding(ThreadPool& pool, const OpCall& call) {
  const auto* tokens = call.inputs[0].as<int32_t>();
  const Table table(call.inputs[1]);
  const Block block(call, call.inputs[1]);
  const bool has_positions = std::get<EmbeddingParams>(call.params).has_positions;
  const Table positions(has_positions ? call.inputs[2] : call.inputs[1]);
  const TensorView& y = call.outputs[0];
  const int64_t width = y.shape[-1];
  const int64_t time = y.shape[1];
  auto* out = y.as<float>();
  pool.parallel_blocks(y.shape.rows(), kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (!block.has(tokens[row])) continue;
      float* to = out + row * width;
      table.copy_row(tokens[row] - block.first, to);
      if (has_positions) positions.add_row(row % time, to);
    }
  });
}

// Each task takes some columns of every token, in the order of the tokens: the order of the sums is
// fixed, whoever makes them. The gradient of the positions comes with the first block of the table.
void embedding_backward(ThreadPool& pool, const OpCall& call) {
  const auto& params = std::get<EmbeddingParams>(call.params);
  const auto* tokens = call.inputs[0].as<int32_t>();
  const TensorView& dy = call.inputs[1];
  const int64_t width = dy.shape[-1];
  const int64_t time = dy.shape[1];
  const int64_t rows = dy.shape.rows();
  const TensorView& dtable = call.outputs[0];
  auto* table = dtable.as<float>();
  const Block block(call, dtable);
  if (!call.runtime.accumulate && !params.accumulate_table) {
    pool.parallel_blocks(block.rows, kClearRows, [&](int64_t begin, int64_t end) {
      std::fill(table + begin * width, table + end * width, 0.0F);
    });
  }
  const bool makes_positions = params.has_positions && block.first == 0;
  float* positions = makes_positions ? call.outputs[1].as<float>() : nullptr;
  if (positions != nullptr && !call.runtime.accumulate) {
    std::fill(positions, positions + call.outputs[1].elements(), 0.0F);
  }
  pool.parallel_blocks(width, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = dy.as<float>() + row * width + begin;
      if (block.has(tokens[row])) {
        float* to = table + (tokens[row] - block.first) * width + begin;
        kernel_table().add_bias(from, to, end - begin);
      }
      if (positions != nullptr) {
        kernel_table().add_bias(from, positions + row % time * width + begin, end - begin);
      }
    }
  });
}

}  // namespace hetmem::ops::cpu
