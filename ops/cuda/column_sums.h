// Sums down the columns of a matrix whose elements are computed on the way: the gradients of biases
// and of the weights of norms. Rows are summed in blocks into a workspace, then the blocks, in an
// order that depends on the shape alone. Included by kernel files only.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/cuda/kernel.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

constexpr int kSumColumns = 32;  // of a block of threads
constexpr int kSumRows = 8;      // threads that share a column

// Rows of one partial sum.
inline int64_t sum_block_rows(int64_t rows) {
  constexpr int64_t kMostBlocks = 256;
  return std::max<int64_t>(64, (rows + kMostBlocks - 1) / kMostBlocks);
}
inline int64_t column_sums_workspace(int64_t rows, int64_t columns) {
  return (rows + sum_block_rows(rows) - 1) / sum_block_rows(rows) * columns *
         static_cast<int64_t>(sizeof(float));
}

// to[block][column] (+)= the sum of term(row, column) over the rows of the block.
template <typename Term>
__global__ void column_sums_kernel(Term term, int64_t rows, int64_t columns, int64_t block_rows,
                                   float* to, bool accumulate) {
  auto* parts = shared_memory<float>();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * block_rows;
  const int64_t end = begin + block_rows < rows ? begin + block_rows : rows;
  float sum = 0.0F;
  if (column < columns) {
    for (int64_t row = begin + threadIdx.y; row < end; row += kSumRows) sum += term(row, column);
  }
  parts[threadIdx.y * kSumColumns + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  float* total = to + blockIdx.y * columns + column;
  for (int i = 1; i < kSumRows; ++i) sum += parts[i * kSumColumns + threadIdx.x];
  *total = accumulate ? *total + sum : sum;
}

// The elements of a matrix that is there.
struct MatrixTerm {
  const float* data;
  int64_t stride;
  __device__ float operator()(int64_t row, int64_t column) const {
    return data[row * stride + column];
  }
};

// sums [columns] (+)= the sums of term(row, column) over [0, rows). `workspace`:
// column_sums_workspace.
template <typename Term>
void column_sums(const Queue& queue, const Term& term, int64_t rows, int64_t columns, float* sums,
                 bool accumulate, void* workspace) {
  const int64_t block_rows = sum_block_rows(rows);
  const unsigned blocks = blocks_for(rows, block_rows);
  const unsigned across = blocks_for(columns, kSumColumns);
  const dim3 threads(kSumColumns, kSumRows);
  constexpr int64_t kShared = kSumColumns * kSumRows * static_cast<int64_t>(sizeof(float));
  auto* parts = static_cast<float*>(workspace);
  launch_kernel(queue, column_sums_kernel<Term>, dim3(across, blocks), threads, kShared, term, rows,
                columns, block_rows, parts, false);
  launch_kernel(queue, column_sums_kernel<MatrixTerm>, dim3(across, 1), threads, kShared,
                MatrixTerm{parts, columns}, static_cast<int64_t>(blocks), columns,
                static_cast<int64_t>(blocks), sums, accumulate);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
