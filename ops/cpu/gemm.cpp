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

// The libraries are parallelised with OpenMP, whose thread count belongs to the calling thread: one
// for each thread that multiplies here.
void hold_libraries_to_one_thread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

int64_t rounded_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Enough equal pieces, each a multiple of 16 long, that a few threads find work.
int64_t piece(int64_t length, int64_t pieces) {
  return std::min(length, rounded_up((length + pieces - 1) / pieces, 16));
}

// One row of A: bound by reading B, so neither library nor large tiles are needed.
void gemv(ThreadPool& pool, const GemmShape& shape, const float* a, const float* b, int64_t ldb,
          float beta, float* c, const GemmEpilogue& epilogue) {
  constexpr int64_t kBytes = 128 << 10;  // of B in a task
  const int64_t columns_of_bytes = kBytes / static_cast<int64_t>(sizeof(float)) / shape.k;
  const int64_t columns =
      std::max<int64_t>(rounded_up(columns_of_bytes, 16), shape.transpose_b ? 16 : 128);
  pool.parallel_blocks(shape.n, columns, [&](int64_t begin, int64_t end) {
    if (shape.transpose_b) {
      kernel_table().gemv_rows(b + begin * ldb, ldb, end - begin, a, shape.k, beta, c + begin);
    } else {
      kernel_table().gemv_columns(b + begin, ldb, end - begin, a, shape.k, beta, c + begin);
    }
    if (epilogue) epilogue(0, 1, begin, end - begin);
  });
}

}  // namespace

GemmRule gemm_rule(const GemmShape& shape) {
  constexpr int64_t kTallTile = 256;
  constexpr int64_t kLongest = 3072;
  GemmRule rule;
  if (shape.m > 1024) {  // weight gradients: tall
    rule.tile_m = kTallTile;
    rule.tile_n = std::min(shape.n, kLongest);
    return rule;
  }
  rule.tile_m = shape.m;
  if (shape.n >= 1024) {
    rule.tile_n =
        piece(shape.n, std::max<int64_t>(4, rounded_up((shape.n + kLongest - 1) / kLongest, 2)));
  } else if (shape.n >= 256) {
    rule.tile_n = piece(shape.n, 2);
  } else {
    rule.tile_n = shape.n;
    rule.tile_m = piece(shape.m, 2);
  }
  if (shape.m >= 512) rule.tile_m = piece(shape.m, 2);
  return rule;
}

void gemm_single(GemmKernel kernel, const GemmShape& shape, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  hold_libraries_to_one_thread();
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
