// The GEMM seam of the CPU: row-major C = alpha op(A) op(B) + beta C in fp32, by oneDNN or OpenBLAS
// on M x N tiles that depend on shape, instruction set and machine only (K is never split), each
// tile computed single-threaded by one thread of the pool: the bits do not depend on how many there
// are. Which library and tile serve a shape is a fixed rule (gemm_rules.inc, written by `hetmem
// bench gemm --tune`).
#pragma once

#include <cstdint>
#include <functional>

#include "device/thread_pool.h"

namespace hetmem::ops::cpu {

enum class GemmKernel : uint8_t { kOneDnn, kOpenBlas };

struct GemmShape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  bool transpose_a = false;  // A is stored [k, m]
  bool transpose_b = false;  // B is stored [n, k]
};

struct GemmRule {
  GemmKernel kernel = GemmKernel::kOneDnn;
  int64_t tile_m = 0;
  int64_t tile_n = 0;
};

// The rule that serves a shape on this processor.
GemmRule gemm_rule(const GemmShape& shape);

// Called once for each finished tile, on the thread that made it, rows [row, row + rows) and
// columns [column, column + columns) of C: for bias, residual and activations while the tile is in
// cache.
using GemmEpilogue =
    std::function<void(int64_t row, int64_t rows, int64_t column, int64_t columns)>;

// A single row of A takes matrix-vector kernels, not a library: reading B is all there is to it.
void gemm(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda, const float* b,
          int64_t ldb, float beta, float* c, int64_t ldc, const GemmEpilogue& epilogue = {});
// The same with a rule of the caller's (tuning, tests).
void gemm_with_rule(ThreadPool& pool, const GemmRule& rule, const GemmShape& shape, const float* a,
                    int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc,
                    const GemmEpilogue& epilogue = {});
// The libraries are parallelised with OpenMP, whose thread count belongs to the calling thread: one
// for each thread that multiplies here.
void hold_libraries_to_one_thread();
// One GEMM on the calling thread, without tiles.
void gemm_single(GemmKernel kernel, const GemmShape& shape, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// One GEMM as the library itself shares it among threads: what benchmarks compare with. Call it
// from a thread of no pool.
void gemm_by_library(GemmKernel kernel, int threads, const GemmShape& shape, const float* a,
                     int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

}  // namespace hetmem::ops::cpu
