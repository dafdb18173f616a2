#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

// The rows of the table that a call has: all of them, or a block.
struct Block {
  int64_t first;
  int64_t rows;
  __device__ bool has(int32_t token) const { return token >= first && token < first + rows; }
};
Block block_of(const OpCall& call, const TensorView& table) {
  return {call.part.first_row, table.shape[0]};
}

// A table in fp32 or bf16, or none.
struct Table {
  const float* whole;
  const uint16_t* halves;
  __device__ explicit operator bool() const { return whole != nullptr || halves != nullptr; }
  __device__ float operator[](int64_t i) const {
    return whole != nullptr ? whole[i] : __uint_as_float(static_cast<uint32_t>(halves[i]) << 16);
  }
};
Table table_of(const TensorView& view) {
  if (view.dtype == DType::kBFloat16) return {nullptr, view.as<uint16_t>()};
  return {view.as<float>(), nullptr};
}

struct Embed {
  const int32_t* tokens;
  Table table;
  Table positions;
  float* y;
  Block block;
  int64_t width;
  int64_t time;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / width;
    const int64_t column = i % width;
    const int32_t token = tokens[row];
    if (!block.has(token)) return;
    const float value = table[(token - block.first) * width + column];
    y[i] = positions ? value + positions[row % time * width + column] : value;
  }
};

// dpositions [P, C]: the sum over the batch, in its order.
struct EmbedPositions {
  const float* dy;
  float* dpositions;
  int64_t batches;
  int64_t time;
  int64_t width;
  bool accumulate;
  __device__ void operator()(int64_t i) const {
    float sum = accumulate ? dpositions[i] : 0.0F;
    if (i < time * width) {
      for (int64_t batch = 0; batch < batches; ++batch) sum += dy[batch * time * width + i];
    }
    dpositions[i] = sum;
  }
};

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// Marks which of the tokens [base, base + kThreads) are `token`: a bit for each, a word for each
// warp.
__device__ void mark_equal(const int32_t* tokens, int64_t count, int64_t base, int32_t token,
                           unsigned* marks) {
  const int64_t at = base + threadIdx.x;
  const unsigned bits = __ballot_sync(0xffffffffU, at < count && tokens[at] == token);
  __syncthreads();  // the marks before these have been read
  if (threadIdx.x % kWarp == 0) marks[threadIdx.x / kWarp] = bits;
  __syncthreads();
}

// A block of threads for each token: the first token of its word gathers the gradients of all of
// them, in the order of the tokens, so that no two blocks write to one row.
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(const int32_t* tokens, int64_t count, const float* dy, int64_t width,
                              Block block, float* dtable) {
  auto* marks = shared_memory<unsigned>();
  const int64_t own = blockIdx.x;
  const int32_t token = tokens[own];
  if (!block.has(token)) return;
  for (int64_t base = 0; base < own; base += kThreads) {
    mark_equal(tokens, own, base, token, marks);
    unsigned any = 0;
    for (int warp = 0; warp < kWarps; ++warp) any |= marks[warp];
    if (any != 0) return;
  }
  float* to = dtable + (token - block.first) * width;
  for (int64_t base = own / kThreads * kThreads; base < count; base += kThreads) {
    mark_equal(tokens, count, base, token, marks);
    for (int warp = 0; warp < kWarps; ++warp) {
      for (unsigned bits = marks[warp]; bits != 0; bits &= bits - 1) {
        const float* from = dy + (base + warp * kWarp + __ffs(bits) - 1) * width;
        for (int64_t c = threadIdx.x; c < width; c += kThreads) to[c] += from[c];
      }
    }
  }
}

}  // namespace

void embedding(const Queue& queue, const OpCall& call) {
  const TensorView& y = call.outputs[0];
  const bool has_positions = std::get<EmbeddingParams>(call.params).has_positions;
  for_each(queue, y.elements(),
           Embed{call.inputs[0].as<int32_t>(), table_of(call.inputs[1]),
                 has_positions ? table_of(call.inputs[2]) : Table{}, y.as<float>(),
                 block_of(call, call.inputs[1]), y.shape[-1], y.shape[1]});
}

void embedding_backward(const Queue& queue, const OpCall& call) {
  const auto& params = std::get<EmbeddingParams>(call.params);
  const TensorView& dy = call.inputs[1];
  const TensorView& dtable = call.outputs[0];
  const int64_t width = dy.shape[-1];
  const int64_t rows = dy.shape.rows();
  if (!call.runtime.accumulate && !params.accumulate_table) {
    clear(queue, dtable.as<float>(), dtable.elements());
  }
  launch_kernel(queue, embedding_backward_kernel, dim3(static_cast<unsigned>(rows)), dim3(kThreads),
                kWarps * static_cast<int64_t>(sizeof(unsigned)), call.inputs[0].as<int32_t>(), rows,
                dy.as<float>(), width, block_of(call, dtable), dtable.as<float>());
  if (!params.has_positions || call.part.first_row > 0) return;
  const TensorView& dpositions = call.outputs[1];
  for_each(queue, dpositions.elements(),
           EmbedPositions{dy.as<float>(), dpositions.as<float>(), dy.shape[0], dy.shape[1], width,
                          call.runtime.accumulate});
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
