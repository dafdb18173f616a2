#include <algorithm>

#include "core/error.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/op_gemms.h"

namespace hetmem::ops::cpu {
namespace {

int64_t padded_width(int64_t vocabulary) { return (vocabulary + 15) / 16 * 16; }

// The workspace: logits and losses of a block of tokens, then the operands that a product rounds or
// widens.
struct Room {
  Room(int64_t all_tokens, int64_t vocabulary)
      : tokens(head_token_block(all_tokens)), stride(padded_width(vocabulary)) {
    constexpr int64_t kAlignment = 64;
    bytes = tokens *
            (stride * static_cast<int64_t>(sizeof(float)) + static_cast<int64_t>(sizeof(double)));
    products_at = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  int64_t tokens;
  int64_t stride;
  int64_t bytes;
  int64_t products_at;
};

struct Matrix {
  float* data;
  int64_t stride;
  Matrix rows_from(int64_t row) const { return {data + row * stride, stride}; }
};
Matrix matrix_of(const TensorView& view) { return {view.as<float>(), view.row_stride}; }
GemmOperand operand_of(const TensorView& view) { return {view.data, view.row_stride, view.dtype}; }

// A call, by parts. The weight and its gradient are those of the part's block of rows.
class Head {
 public:
  Head(ThreadPool& thread_pool, const OpCall& which, int64_t all_words)
      : pool_(thread_pool),
        call_(which),
        params_(std::get<HeadParams>(which.params)),
        training_(which.kind == OpKind::kHeadLossTrain),
        vocabulary_(all_words),
        room_(which.inputs[0].shape.rows(), all_words),
        logits_{static_cast<float*>(which.workspace.data), room_.stride},
        losses_(reinterpret_cast<double*>(logits_.rows_from(room_.tokens).data)) {}

  void run(const OpPart& part) const {
    HETMEM_ASSERT(part.weight_rows == vocabulary_ && part.tokens <= room_.tokens);
    switch (part.stage) {
      case HeadStage::kLogits:
        return make_logits(part);
      case HeadStage::kLoss:
        return add_loss(part);
      case HeadStage::kGradients:
        return make_gradients(part);
    }
  }

 private:
  void make_logits(const OpPart& part) const {
    const Shape block = block_shape(part, call_.inputs[1]);
    multiply(head_logits_gemm(part.tokens, block), x_of(part), operand_of(call_.inputs[1]), 0.0F,
             columns_of(part));
  }

  // Turns the logits into their gradients where there is training.
  void add_loss(const OpPart& part) const {
    const auto* labels = call_.inputs[2].as<int32_t>() + part.first_token;
    const auto scale = static_cast<float>(call_.runtime.loss_scale);
    pool_.parallel_for(part.tokens, [&](int64_t row) {
      float* at = logits_.rows_from(row).data;
      losses_[row] = 0.0;
      if (labels[row] >= 0) {
        losses_[row] =
            kernel_table().cross_entropy_row(at, vocabulary_, labels[row], scale, training_);
      } else if (training_) {
        std::fill(at, at + vocabulary_, 0.0F);
      }
    });
    auto* loss = call_.outputs[0].as<double>();
    for (int64_t row = 0; row < part.tokens; ++row) *loss += losses_[row];
  }

  // The weight is not read after dx: its gradient may be written over it.
  void make_gradients(const OpPart& part) const {
    const Shape block = block_shape(part, call_.inputs[1]);
    multiply(head_input_gradient_gemm(part.tokens, block), columns_of(part),
             operand_of(call_.inputs[1]), part.first_row > 0 ? 1.0F : 0.0F,
             matrix_of(call_.outputs[1]).rows_from(part.first_token));
    if (call_.outputs.size() < 3) return;
    HETMEM_ASSERT(block_shape(part, call_.outputs[2]) == block);
    const bool adds = call_.runtime.accumulate || part.first_token > 0;
    multiply(head_weight_gradient_gemm(part.tokens, block), columns_of(part),
             {x_of(part).data, x_of(part).stride}, adds ? 1.0F : 0.0F, matrix_of(call_.outputs[2]));
  }

  static const Shape& block_shape(const OpPart& part, const TensorView& weight) {
    HETMEM_ASSERT(weight && weight.shape[0] == part.rows);
    return weight.shape;
  }
  Matrix x_of(const OpPart& part) const {
    return matrix_of(call_.inputs[0]).rows_from(part.first_token);
  }
  Matrix columns_of(const OpPart& part) const {
    return {logits_.data + part.first_row, logits_.stride};
  }
  void multiply(const GemmShape& shape, const Matrix& a, const GemmOperand& b, float beta,
                const Matrix& c) const {
    if (!params_.bf16) {
      HETMEM_ASSERT(b.dtype == DType::kFloat32);
      return gemm(pool_, shape, a.data, a.stride, static_cast<const float*>(b.data), b.stride, beta,
                  c.data, c.stride);
    }
    gemm_bf16(pool_, shape, a.data, a.stride, b, beta, c.data, c.stride,
              static_cast<std::byte*>(call_.workspace.data) + room_.products_at);
  }

  ThreadPool& pool_;
  const OpCall& call_;
  const HeadParams& params_;
  bool training_;
  int64_t vocabulary_;
  Room room_;
  Matrix logits_;
  double* losses_;
};

}  // namespace

int64_t head_loss_workspace(OpKind kind, const HeadParams& params,
                            const std::vector<Shape>& inputs) {
  const int64_t tokens = inputs[0].rows();
  const Shape& w = inputs[1];
  const Room room(tokens, w[0]);
  if (!params.bf16) return room.bytes;
  const DType weight = params.bf16_weight ? DType::kBFloat16 : DType::kFloat32;
  int64_t products = 0;
  for (const int64_t count : {room.tokens, (tokens - 1) % room.tokens + 1}) {
    // Products of fewer rows are cut otherwise, so that one of them may need more than the whole.
    for (int64_t rows = 1; rows <= w[0]; ++rows) {
      const Shape block{rows, w[1]};
      products = std::max(products, gemm_bf16_workspace(head_logits_gemm(count, block), weight));
      if (kind == OpKind::kHeadLoss) continue;
      products =
          std::max(products, gemm_bf16_workspace(head_input_gradient_gemm(count, block), weight));
    }
    if (kind == OpKind::kHeadLoss || !params.weight_gradient) continue;
    products = std::max(products, gemm_bf16_workspace(head_weight_gradient_gemm(count, w)));
  }
  return room.products_at + products;
}

void head_loss(ThreadPool& pool, const OpCall& call) {
  if (call.part.rows > 0) return Head(pool, call, call.part.weight_rows).run(call.part);
  const int64_t vocabulary = call.inputs[1].shape[0];
  const Head head(pool, call, vocabulary);
  const std::vector<Shape> inputs{call.inputs[0].shape, call.inputs[1].shape};
  for (const OpPart& part : parts(call.kind, call.params, inputs, vocabulary, vocabulary)) {
    head.run(part);
  }
}

}  // namespace hetmem::ops::cpu
