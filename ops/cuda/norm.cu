// Norms: a warp to a row. The gradients of weights are summed first, for dx may lie over dy.
#include "ops/cuda/column_sums.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

constexpr int kRowThreads = 256;
constexpr int kRowsOfBlock = kRowThreads / kWarp;

// The row of the calling warp.
__device__ int64_t own_row() {
  return static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kWarp;
}
__device__ int own_lane() { return static_cast<int>(threadIdx.x) % kWarp; }

__global__ void layer_norm_kernel(const float* x, const float* w, const float* b, float epsilon,
                                  int64_t rows, int64_t width, float* y, float* stats) {
  const int64_t row = own_row();
  if (row >= rows) return;
  const float* from = x + row * width;
  const auto count = static_cast<float>(width);
  float sum = 0.0F;
  for (int64_t c = own_lane(); c < width; c += kWarp) sum += from[c];
  const float mean = warp_sum(sum) / count;
  float squares = 0.0F;
  for (int64_t c = own_lane(); c < width; c += kWarp) {
    const float d = from[c] - mean;
    squares += d * d;
  }
  const float rstd = 1.0F / sqrtf(warp_sum(squares) / count + epsilon);
  for (int64_t c = own_lane(); c < width; c += kWarp) {
    y[row * width + c] = (from[c] - mean) * rstd * w[c] + b[c];
  }
  if (own_lane() > 0) return;
  stats[2 * row] = mean;
  stats[2 * row + 1] = rstd;
}

__global__ void rms_norm_kernel(const float* x, const float* w, float epsilon, int64_t rows,
                                int64_t width, float* y, float* rstds) {
  const int64_t row = own_row();
  if (row >= rows) return;
  const float* from = x + row * width;
  float squares = 0.0F;
  for (int64_t c = own_lane(); c < width; c += kWarp) squares += from[c] * from[c];
  const float rstd = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(width) + epsilon);
  for (int64_t c = own_lane(); c < width; c += kWarp) y[row * width + c] = from[c] * rstd * w[c];
  if (own_lane() == 0) rstds[row] = rstd;
}

// The rows of x as they are before the weight: (x - mean) / std, without the mean for RMS norms.
struct Normed {
  const float* x;
  const float* stats;  // [rows, 2] (mean, 1/std) or [rows] (1/std)
  bool centred;
  int64_t width;
  __device__ float mean(int64_t row) const { return centred ? stats[2 * row] : 0.0F; }
  __device__ float rstd(int64_t row) const { return centred ? stats[2 * row + 1] : stats[row]; }
  __device__ float operator()(int64_t row, int64_t column) const {
    return (x[row * width + column] - mean(row)) * rstd(row);
  }
};

struct WeightTerm {
  Normed normed;
  const float* dy;
  __device__ float operator()(int64_t row, int64_t column) const {
    return dy[row * normed.width + column] * normed(row, column);
  }
};

// dx = (g - mean(g) - normed mean(g normed)) / std with g = dy w; RMS norms have no mean(g).
__global__ void norm_backward_kernel(Normed normed, const float* dy, const float* w,
                                     const float* addend, int64_t rows, float* dx) {
  const int64_t row = own_row();
  if (row >= rows) return;
  const int64_t width = normed.width;
  const auto count = static_cast<float>(width);
  float sum_g = 0.0F;
  float sum_gx = 0.0F;
  for (int64_t c = own_lane(); c < width; c += kWarp) {
    const float g = dy[row * width + c] * w[c];
    sum_g += g;
    sum_gx += g * normed(row, c);
  }
  const float mean_g = normed.centred ? warp_sum(sum_g) / count : 0.0F;
  const float mean_gx = warp_sum(sum_gx) / count;
  const float rstd = normed.rstd(row);
  for (int64_t c = own_lane(); c < width; c += kWarp) {
    const int64_t at = row * width + c;
    const float d = (dy[at] * w[c] - mean_g - normed(row, c) * mean_gx) * rstd;
    dx[at] = addend != nullptr ? d + addend[at] : d;
  }
}

float epsilon_of(const OpCall& call) { return std::get<NormParams>(call.params).epsilon; }

// dx and dw; `centred` for layer norms.
void norm_backward(const Queue& queue, const OpCall& call, bool centred) {
  const int64_t width = call.inputs[2].shape[0];
  const int64_t rows = call.inputs[1].elements() / width;
  const auto* dy = call.inputs[0].as<float>();
  const bool has_addend = std::get<NormParams>(call.params).has_addend;
  const float* addend = has_addend ? call.inputs[4].as<float>() : nullptr;
  const Normed normed{call.inputs[1].as<float>(), call.inputs[3].as<float>(), centred, width};
  column_sums(queue, WeightTerm{normed, dy}, rows, width, call.outputs[1].as<float>(),
              call.runtime.accumulate, call.workspace.data);
  launch_kernel(queue, norm_backward_kernel, dim3(blocks_for(rows, kRowsOfBlock)),
                dim3(kRowThreads), 0, normed, dy, call.inputs[2].as<float>(), addend, rows,
                call.outputs[0].as<float>());
}

}  // namespace

int64_t norm_backward_workspace(const std::vector<Shape>& inputs) {
  const int64_t width = inputs[2][0];
  return column_sums_workspace(inputs[1].elements() / width, width);
}

void layer_norm(const Queue& queue, const OpCall& call) {
  const int64_t rows = call.inputs[0].shape.rows();
  launch_kernel(queue, layer_norm_kernel, dim3(blocks_for(rows, kRowsOfBlock)), dim3(kRowThreads),
                0, call.inputs[0].as<float>(), call.inputs[1].as<float>(),
                call.inputs[2].as<float>(), epsilon_of(call), rows, call.inputs[0].shape[-1],
                call.outputs[0].as<float>(), call.outputs[1].as<float>());
}

void rms_norm(const Queue& queue, const OpCall& call) {
  const int64_t width = call.inputs[1].shape[0];
  const int64_t rows = call.inputs[0].elements() / width;
  launch_kernel(queue, rms_norm_kernel, dim3(blocks_for(rows, kRowsOfBlock)), dim3(kRowThreads), 0,
                call.inputs[0].as<float>(), call.inputs[1].as<float>(), epsilon_of(call), rows,
                width, call.outputs[0].as<float>(), call.outputs[1].as<float>());
}

void layer_norm_backward(const Queue& queue, const OpCall& call) {
  const int64_t width = call.inputs[2].shape[0];
  column_sums(queue, MatrixTerm{call.inputs[0].as<float>(), width},
              call.inputs[1].elements() / width, width, call.outputs[2].as<float>(),
              call.runtime.accumulate, call.workspace.data);
  norm_backward(queue, call, true);
}

void rms_norm_backward(const Queue& queue, const OpCall& call) {
  norm_backward(queue, call, false);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
