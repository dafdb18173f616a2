#include <utility>

#include "core/error.h"
#include "device/cuda/cuda_stream.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/backend.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::cuda_backend {
namespace {

template <typename Work>
void enqueue(Stream& stream, Work work) {
  HETMEM_ASSERT(stream.kind() == DeviceKind::kCuda);
  static_cast<CudaStream&>(stream).enqueue(
      [run = std::move(work)](cudaStream_t cuda) { run(cuda_kernels::Queue{cuda}); });
}

// Memory for the sums of blocks: 16 KiB of the device for each stream that has summed squares, part
// of what a stream costs as its queue is.
class SumParts {
 public:
  SumParts() {
    check_cuda(cudaMalloc(&data_, cuda_kernels::kSumsAtOnce * sizeof(double)),
               "allocate the sums of a stream");
  }
  ~SumParts() { cudaFree(data_); }
  SumParts(const SumParts&) = delete;
  SumParts& operator=(const SumParts&) = delete;
  double* data() { return static_cast<double*>(data_); }

 private:
  void* data_ = nullptr;
};

}  // namespace

void launch(Stream& stream, OpCall call) {
  enqueue(stream, [work = std::move(call)](const cuda_kernels::Queue& queue) {
    cuda_kernels::run(queue, work);
  });
}

void cached_attention(Stream& stream, OpCall call, const KeyValueRows& cache) {
  enqueue(stream, [work = std::move(call), cache](const cuda_kernels::Queue& queue) {
    cuda_kernels::cached_attention(queue, work, cache);
  });
}

void adamw_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                TensorView m, TensorView v, TensorView low) {
  enqueue(stream, [=](const cuda_kernels::Queue& queue) {
    cuda_kernels::adamw_step(queue, step, weight, gradient, m, v, low);
  });
}

void adamw_8bit_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                     TensorView m, TensorView v, TensorView low) {
  enqueue(stream, [=](const cuda_kernels::Queue& queue) {
    cuda_kernels::adamw_8bit_step(queue, step, weight, gradient, m, v, low);
  });
}

void sgd_step(Stream& stream, const SgdStep& step, TensorView weight, TensorView gradient,
              TensorView momentum, TensorView low) {
  enqueue(stream, [=](const cuda_kernels::Queue& queue) {
    cuda_kernels::sgd_step(queue, step, weight, gradient, momentum, low);
  });
}

void sum_of_squares(Stream& stream, TensorView values, TensorView sum, bool accumulate) {
  enqueue(stream, [=](const cuda_kernels::Queue& queue) {
    thread_local SumParts parts;  // the stream's own: its work runs on one thread
    cuda_kernels::sum_of_squares(queue, values, sum, accumulate, parts.data());
  });
}

// The blocks of tokens and of rows are the CPU's.
std::vector<OpPart> parts(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs,
                          int64_t weight_rows, int64_t block_rows) {
  return cpu::parts(kind, params, inputs, weight_rows, block_rows);
}

int64_t workspace_bytes(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs) {
  return cuda_kernels::workspace_bytes(kind, params, inputs);
}

}  // namespace hetmem::ops::cuda_backend
