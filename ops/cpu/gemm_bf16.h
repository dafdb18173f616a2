// The GEMM seam with operands in bf16: row-major C = op(A) op(B) + beta C, A and B rounded to the
// nearest bf16 (ties to even) where they are stored in fp32, products summed in fp32. As gemm.h has
// it, tiles depend on shape and machine only. Two paths: oneDNN's bf16 products on processors with
// AVX-512 BF16 (has_native_bf16()), and products in fp32 of the rounded operands on all others.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "ops/cpu/gemm.h"

namespace hetmem::ops::cpu {

// A matrix as it is stored: fp32, or bf16.
struct GemmOperand {
  const void* data;
  int64_t stride;
  DType dtype = DType::kFloat32;
};

// Bytes that a call needs for the operands that it rounds or widens.
int64_t gemm_bf16_workspace(const GemmShape& shape, DType b = DType::kFloat32);

// `beta` is 0 or 1. `workspace` holds gemm_bf16_workspace() bytes, 64-byte aligned. Only a B that
// is a weight (A not transposed) may be stored in bf16. Throws Error (kInternal) where oneDNN
// refuses.
void gemm_bf16(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda,
               const GemmOperand& b, float beta, float* c, int64_t ldc, void* workspace,
               const GemmEpilogue& epilogue = {});

// The two paths.
int64_t gemm_bf16_native_workspace(const GemmShape& shape, DType b);
void gemm_bf16_native(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda,
                      const GemmOperand& b, float beta, float* c, int64_t ldc, void* workspace,
                      const GemmEpilogue& epilogue);
int64_t gemm_bf16_widened_workspace(const GemmShape& shape);
void gemm_bf16_widened(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda,
                       const GemmOperand& b, float beta, float* c, int64_t ldc, void* workspace,
                       const GemmEpilogue& epilogue);

}  // namespace hetmem::ops::cpu
