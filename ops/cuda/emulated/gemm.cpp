// Products by plain loops, in the place of the library where there is no GPU. For tests.
#include "ops/cuda/gemm.h"

#include <cstddef>

#include "core/dtype.h"
#include "core/error.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

// What tensor cores want of an operand in bf16: rows that begin at multiples of 16 bytes.
bool is_aligned(GemmDtype dtype, const GemmOperand& operand) {
  return dtype == GemmDtype::kFloat32 ||
         (reinterpret_cast<uintptr_t>(operand.data) % 16 == 0 && operand.stride % 8 == 0);
}

float element(GemmDtype dtype, const GemmOperand& operand, int64_t row, int64_t column) {
  const int64_t at = row * operand.stride + column;
  if (dtype == GemmDtype::kFloat32) return static_cast<const float*>(operand.data)[at];
  return float_from_bf16(static_cast<const uint16_t*>(operand.data)[at]);
}

}  // namespace

void library_gemm(const Queue&, GemmDtype dtype, const GemmShape& shape, const GemmOperand& a,
                  const GemmOperand& b, float beta, const GemmResult& c, const GemmRoom& room) {
  // A library would write there.
  for (int64_t i = 0; i < room.bytes; ++i) static_cast<std::byte*>(room.data)[i] = std::byte{0xff};
  HETMEM_ASSERT(room.data == nullptr || reinterpret_cast<uintptr_t>(room.data) % 256 == 0);
  HETMEM_ASSERT(is_aligned(dtype, a) && is_aligned(dtype, b));
  for (int64_t i = 0; i < shape.m; ++i) {
    for (int64_t j = 0; j < shape.n; ++j) {
      float sum = 0.0F;
      for (int64_t d = 0; d < shape.k; ++d) {
        sum += (shape.transpose_a ? element(dtype, a, d, i) : element(dtype, a, i, d)) *
               (shape.transpose_b ? element(dtype, b, j, d) : element(dtype, b, d, j));
      }
      float* to = c.data + i * c.stride + j;
      *to = beta == 0.0F ? sum : beta * *to + sum;
    }
  }
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
