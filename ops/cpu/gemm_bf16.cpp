#include "ops/cpu/gemm_bf16.h"

#include "core/error.h"
#include "ops/ops.h"

namespace hetmem::ops::cpu {

int64_t gemm_bf16_workspace(const GemmShape& shape, DType b) {
  return has_native_bf16() ? gemm_bf16_native_workspace(shape, b)
                           : gemm_bf16_widened_workspace(shape);
}

void gemm_bf16(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda,
               const GemmOperand& b, float beta, float* c, int64_t ldc, void* workspace,
               const GemmEpilogue& epilogue) {
  HETMEM_ASSERT(beta == 0.0F || beta == 1.0F);
  HETMEM_ASSERT(b.dtype == DType::kFloat32 || (b.dtype == DType::kBFloat16 && !shape.transpose_a));
  const auto multiply = has_native_bf16() ? gemm_bf16_native : gemm_bf16_widened;
  multiply(pool, shape, a, lda, b, beta, c, ldc, workspace, epilogue);
}

}  // namespace hetmem::ops::cpu
