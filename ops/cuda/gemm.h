// The GEMM seam of the CUDA backend: row-major C = op(A) op(B) + beta C, summed in fp32. Two
// implementations: cuBLASLt (gemm_cublaslt.cu) and, under the block emulator, plain loops.
// Everything that a product needs in device memory is the caller's workspace; the same shapes,
// strides and alignments give the same bits on one kind of GPU and version of the library.
#pragma once

#include <cstdint>

#include "core/tensor_view.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/op_gemms.h"
#include "ops/cuda/kernel.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

using cpu::GemmShape;

enum class GemmDtype : uint8_t { kFloat32, kBFloat16 };

// An operand: row-major, `stride` elements from one row to the next, in fp32 or bf16.
using cpu::GemmOperand;
struct GemmResult {
  float* data;
  int64_t stride;
};

// Memory that a library may use: 256-byte aligned, or none.
struct GemmRoom {
  void* data = nullptr;
  int64_t bytes = 0;
};
// How much of it a product gets, by its shape alone.
int64_t gemm_room_bytes(const GemmShape& shape);

// The seam itself. fp32 operands are multiplied in fp32, never in TF32.
void library_gemm(const Queue& queue, GemmDtype dtype, const GemmShape& shape, const GemmOperand& a,
                  const GemmOperand& b, float beta, const GemmResult& c, const GemmRoom& room);

// What ops call: a product of fp32 operands, rounded to bf16 first where `bf16` says so (into the
// workspace, of multiply_workspace bytes). A B that is stored in bf16, a weight without gaps
// between its rows, is read as it is, or from an aligned copy where its rows are not multiples of
// 16 bytes. fp32 products without a workspace are made without room for the library.
void multiply(const Queue& queue, bool bf16, const GemmShape& shape, const GemmOperand& a,
              const GemmOperand& b, float beta, const GemmResult& c, void* workspace);
int64_t multiply_workspace(bool bf16, const GemmShape& shape, DType b = DType::kFloat32);

inline GemmOperand operand_of(const TensorView& view) {
  return {view.data, view.row_stride, view.dtype};
}
inline GemmResult result_of(const TensorView& view) { return {view.as<float>(), view.row_stride}; }

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
