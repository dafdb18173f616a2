#include "ops/cpu/gemm.h"

#include <cblas.h>
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <string>

#include "core/error.h"
#include "ops/cpu/isa/kernel_table.h"

namespace hetmem::ops::cpu {
namespace {

// One row of A: bound by reading B, so neither library nor large tiles are needed.
void gemv(ThreadPool& pool, const GemmShape& shape, const float* a, const float* b, int64_t ldb,
          float beta, float* c, const GemmEpilogue& epilogue) {
  constexpr int64_t kBytes = 128 << 10;  // of B in a task
  const int64_t least = shape.transpose_b ? 16 : 128;
  const int64_t columns =
      std::max(least, kBytes / static_cast<int64_t>(sizeof(float)) / shape.k / least * least);
  pool.parallel_blocks(shape.n, columns, [&](int64_t begin, int64_t end) {
    if (shape.transpose_b) {
      kernel_table().gemv_rows(b + begin * ldb, ldb, end - begin, a, shape.k, beta, c + begin);
    } else {
      kernel_table().gemv_columns(b + begin, ldb, end - begin, a, shape.k, beta, c + begin);
    }
    if (epilogue) epilogue(0, 1, begin, end - begin);
  });
}

void call_library(GemmKernel kernel, const GemmShape& shape, const float* a, int64_t lda,
                  const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  if (kernel == GemmKernel::kOneDnn) {
    const dnnl_status_t status =
        dnnl_sgemm(shape.transpose_a ? 'T' : 'N', shape.transpose_b ? 'T' : 'N', shape.m, shape.n,
                   shape.k, 1.0F, a, lda, b, ldb, beta, c, ldc);
    if (status != dnnl_success) {
      throw Error(ErrorKind::kInternal,
                  "oneDNN refused a GEMM (status " + std::to_string(status) + ")");
    }
    return;
  }
  cblas_sgemm(CblasRowMajor, shape.transpose_a ? CblasTrans : CblasNoTrans,
              shape.transpose_b ? CblasTrans : CblasNoTrans, static_cast<int>(shape.m),
              static_cast<int>(shape.n), static_cast<int>(shape.k), 1.0F, a, static_cast<int>(lda),
              b, static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
}

}  // namespace

void hold_libraries_to_one_thread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

void gemm_single(GemmKernel kernel, const GemmShape& shape, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  hold_libraries_to_one_thread();
  call_library(kernel, shape, a, lda, b, ldb, beta, c, ldc);
}

void gemm_by_library(GemmKernel kernel, int threads, const GemmShape& shape, const float* a,
                     int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  hold_libraries_to_one_thread();  // so that a later gemm_single() here does not set it again
  omp_set_num_threads(threads);
  call_library(kernel, shape, a, lda, b, ldb, beta, c, ldc);
  omp_set_num_threads(1);
}

void gemm_with_rule(ThreadPool& pool, const GemmRule& rule, const GemmShape& shape, const float* a,
                    int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc,
                    const GemmEpilogue& epilogue) {
  if (shape.m == 0 || shape.n == 0) return;
  HETMEM_ASSERT(rule.tile_m > 0 && rule.tile_n > 0 && shape.k > 0);
  const int64_t across = (shape.n + rule.tile_n - 1) / rule.tile_n;
  const int64_t down = (shape.m + rule.tile_m - 1) / rule.tile_m;
  pool.parallel_for(across * down, [&](int64_t tile) {
    const int64_t row = tile / across * rule.tile_m;
    const int64_t column = tile % across * rule.tile_n;
    GemmShape part = shape;
    part.m = std::min(rule.tile_m, shape.m - row);
    part.n = std::min(rule.tile_n, shape.n - column);
    gemm_single(rule.kernel, part, shape.transpose_a ? a + row : a + row * lda, lda,
                shape.transpose_b ? b + column * ldb : b + column, ldb, beta,
                c + row * ldc + column, ldc);
    if (epilogue) epilogue(row, part.m, column, part.n);
  });
}

void gemm(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda, const float* b,
          int64_t ldb, float beta, float* c, int64_t ldc, const GemmEpilogue& epilogue) {
  if (shape.m == 1 && !shape.transpose_a) {
    return gemv(pool, shape, a, b, ldb, beta, c, epilogue);
  }
  gemm_with_rule(pool, gemm_rule(shape), shape, a, lda, b, ldb, beta, c, ldc, epilogue);
}

}  // namespace hetmem::ops::cpu
