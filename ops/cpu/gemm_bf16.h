// The GEMM seam with operands in bf16: row-major C = op(A) op(B) + beta C, A and B rounded to the
// nearest bf16 (ties to even), products summed in fp32, by oneDNN on processors with AVX-512 BF16.
// As gemm.h has it, tiles depend on the shape only. The operand that is the larger one in training,
// the weight, is rounded tile by tile while it is in cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cpu/gemm.h"

namespace hetmem::ops::cpu {

// Bytes that a call needs for its rounded operands.
int64_t gemm_bf16_workspace(const GemmShape& shape);

// `beta` is 0 or 1. `workspace` holds gemm_bf16_workspace() bytes, 64-byte aligned. Throws Error
// (kInternal) where oneDNN refuses.
void gemm_bf16(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda,
               const float* b, int64_t ldb, float beta, float* c, int64_t ldc, void* workspace,
               const GemmEpilogue& epilogue = {});

}  // namespace hetmem::ops::cpu
