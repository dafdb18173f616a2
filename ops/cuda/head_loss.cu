// The head with cross-entropy by blocks of tokens, in the stages and with the parts of the CPU's
// (ops/cpu/head_loss.cpp): logits of a block of tokens in the workspace, turned into their
// gradients in place, then the two products of the backward pass.
#include <algorithm>

#include "core/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/gemm.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

constexpr int kRowThreads = 256;
constexpr int kRowWarps = kRowThreads / kWarp;

// Over the threads of a block, the same bits in each. `parts`: kRowWarps floats.
__device__ float block_sum(float value, float* parts) {
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = 0.0F;
  for (int i = 0; i < kRowWarps; ++i) total += parts[i];
  __syncthreads();
  return total;
}

// One row of logits: its loss and, in training, the gradient (softmax - onehot) scale in its place.
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_kernel(float* logits, int64_t stride, int64_t words, const int32_t* labels,
                         float scale, bool training, double* losses) {
  auto* parts = shared_memory<float>();
  const int64_t row = blockIdx.x;
  float* at = logits + row * stride;
  const int32_t label = labels[row];
  if (label < 0) {
    if (threadIdx.x == 0) losses[row] = 0.0;
    if (!training) return;
    for (int64_t i = threadIdx.x; i < words; i += kRowThreads) at[i] = 0.0F;
    return;
  }
  const float target = at[label];
  float most = at[0];
  for (int64_t i = threadIdx.x; i < words; i += kRowThreads) most = fmaxf(most, at[i]);
  most = block_max<kRowWarps>(most, parts);
  float sum = 0.0F;
  for (int64_t i = threadIdx.x; i < words; i += kRowThreads) sum += expf(at[i] - most);
  sum = block_sum(sum, parts);
  if (threadIdx.x == 0) losses[row] = log(static_cast<double>(sum)) + most - target;
  if (!training) return;
  const float factor = scale / sum;
  for (int64_t i = threadIdx.x; i < words; i += kRowThreads) {
    const float gradient = expf(at[i] - most) * factor;
    at[i] = i == label ? gradient - scale : gradient;
  }
}

__global__ void add_losses_kernel(const double* losses, int64_t count, double* loss) {
  double total = *loss;
  for (int64_t i = 0; i < count; ++i) total += losses[i];
  *loss = total;
}

// Words of a product in bf16: their weights or logits are rounded at a time.
constexpr int64_t kRoundedRows = 8192;
int64_t words_at_once(bool bf16, int64_t rows) {
  return bf16 ? std::min(rows, kRoundedRows) : rows;
}

// The workspace: logits and losses of a block of tokens, then what the products need.
struct Room {
  Room(int64_t all_tokens, int64_t vocabulary)
      : tokens(cpu::head_token_block(all_tokens)), stride((vocabulary + 15) / 16 * 16) {
    losses_at = tokens * stride * static_cast<int64_t>(sizeof(float));
    products_at = losses_at + tokens * static_cast<int64_t>(sizeof(double));
  }
  int64_t tokens;
  int64_t stride;
  int64_t losses_at;
  int64_t products_at;
};

struct Matrix {
  float* data;
  int64_t stride;
  Matrix from_row(int64_t row) const { return {data + row * stride, stride}; }
  Matrix from_column(int64_t column) const { return {data + column, stride}; }
};
Matrix matrix_of(const TensorView& view) { return {view.as<float>(), view.row_stride}; }
// Rows of a weight from `row`, in fp32 or bf16.
GemmOperand weight_from(const TensorView& weight, int64_t row) {
  return {
      static_cast<const std::byte*>(weight.data) + row * weight.row_stride * size_of(weight.dtype),
      weight.row_stride, weight.dtype};
}

// A call, by parts. The weight and its gradient are those of the part's block of rows.
class Head {
 public:
  Head(const Queue& queue, const OpCall& which, int64_t all_words)
      : queue_(queue),
        call_(which),
        bf16_(std::get<HeadParams>(which.params).bf16),
        training_(which.kind == OpKind::kHeadLossTrain),
        vocabulary_(all_words),
        room_(which.inputs[0].shape.rows(), all_words),
        workspace_(static_cast<std::byte*>(which.workspace.data)),
        logits_{static_cast<float*>(which.workspace.data), room_.stride} {}

  void run(const OpPart& part) const {
    HETMEM_ASSERT(part.weight_rows == vocabulary_ && part.tokens <= room_.tokens);
    switch (part.stage) {
      case HeadStage::kLogits:
        return make_logits(part);
      case HeadStage::kLoss:
        return add_loss(part);
      case HeadStage::kGradients:
        make_input_gradient(part);
        if (call_.outputs.size() > 2) make_weight_gradient(part);
    }
  }

 private:
  void make_logits(const OpPart& part) const {
    const TensorView& weight = block_of(part, call_.inputs[1]);
    for_each_words(part, [&](int64_t first, const Shape& words) {
      product(cpu::head_logits_gemm(part.tokens, words), x_of(part), weight_from(weight, first),
              0.0F, logits_.from_column(part.first_row + first));
    });
  }

  void add_loss(const OpPart& part) const {
    auto* losses = reinterpret_cast<double*>(workspace_ + room_.losses_at);
    launch_kernel(queue_, cross_entropy_kernel, dim3(static_cast<unsigned>(part.tokens)),
                  dim3(kRowThreads), kRowWarps * static_cast<int64_t>(sizeof(float)), logits_.data,
                  logits_.stride, vocabulary_, call_.inputs[2].as<int32_t>() + part.first_token,
                  static_cast<float>(call_.runtime.loss_scale), training_, losses);
    launch_kernel(queue_, add_losses_kernel, dim3(1), dim3(1), 0, losses, part.tokens,
                  call_.outputs[0].as<double>());
  }

  // Before the gradient of the weight, which may be written over the weight.
  void make_input_gradient(const OpPart& part) const {
    const TensorView& weight = block_of(part, call_.inputs[1]);
    for_each_words(part, [&](int64_t first, const Shape& words) {
      product(cpu::head_input_gradient_gemm(part.tokens, words),
              logits_.from_column(part.first_row + first), weight_from(weight, first),
              part.first_row + first > 0 ? 1.0F : 0.0F,
              matrix_of(call_.outputs[1]).from_row(part.first_token));
    });
  }

  void make_weight_gradient(const OpPart& part) const {
    const TensorView& gradient = block_of(part, call_.outputs[2]);
    const bool adds = call_.runtime.accumulate || part.first_token > 0;
    for_each_words(part, [&](int64_t first, const Shape& words) {
      product(cpu::head_weight_gradient_gemm(part.tokens, words),
              logits_.from_column(part.first_row + first), {x_of(part).data, x_of(part).stride},
              adds ? 1.0F : 0.0F, matrix_of(gradient).from_row(first));
    });
  }

  // Calls body(first row in the block, shape of the weights) for as many words as go at once.
  template <typename Body>
  void for_each_words(const OpPart& part, const Body& body) const {
    const int64_t step = words_at_once(bf16_, part.rows);
    const int64_t width = call_.inputs[0].shape[-1];
    for (int64_t first = 0; first < part.rows; first += step) {
      body(first, Shape{std::min(step, part.rows - first), width});
    }
  }

  static const TensorView& block_of(const OpPart& part, const TensorView& weight) {
    HETMEM_ASSERT(weight && weight.shape[0] == part.rows);
    return weight;
  }
  Matrix x_of(const OpPart& part) const {
    return matrix_of(call_.inputs[0]).from_row(part.first_token);
  }
  void product(const GemmShape& shape, const Matrix& a, const GemmOperand& b, float beta,
               const Matrix& c) const {
    multiply(queue_, bf16_, shape, {a.data, a.stride}, b, beta, {c.data, c.stride},
             workspace_ + room_.products_at);
  }

  const Queue& queue_;
  const OpCall& call_;
  bool bf16_;
  bool training_;
  int64_t vocabulary_;
  Room room_;
  std::byte* workspace_;
  Matrix logits_;
};

}  // namespace

// What a product needs grows with each of its sizes: blocks of the weight need no more than all.
int64_t head_loss_workspace(OpKind kind, const HeadParams& params,
                            const std::vector<Shape>& inputs) {
  const Shape& w = inputs[1];
  const Room room(inputs[0].rows(), w[0]);
  const Shape words{words_at_once(params.bf16, w[0]), w[1]};
  const DType weight = params.bf16_weight ? DType::kBFloat16 : DType::kFloat32;
  int64_t products =
      multiply_workspace(params.bf16, cpu::head_logits_gemm(room.tokens, words), weight);
  if (kind == OpKind::kHeadLossTrain) {
    products = std::max(
        {products,
         multiply_workspace(params.bf16, cpu::head_input_gradient_gemm(room.tokens, words), weight),
         multiply_workspace(params.bf16, cpu::head_weight_gradient_gemm(room.tokens, words))});
  }
  return room.products_at + products;
}

void head_loss(const Queue& queue, const OpCall& call) {
  if (call.part.rows > 0) return Head(queue, call, call.part.weight_rows).run(call.part);
  const int64_t vocabulary = call.inputs[1].shape[0];
  const Head head(queue, call, vocabulary);
  const std::vector<Shape> inputs{call.inputs[0].shape, call.inputs[1].shape};
  for (const OpPart& part : cpu::parts(call.kind, call.params, inputs, vocabulary, vocabulary)) {
    head.run(part);
  }
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
