// cuBLASLt, loaded at its first use, so that the binary starts where the library is not installed.
// Included by the seam of the products only.
#pragma once

#include <cublasLt.h>

#include <string>

namespace hetmem::ops::cuda_kernels {

// The functions that are called, by the types that cublasLt.h declares them with.
struct CublasLt {
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtDestroy) destroy;
  decltype(&::cublasLtGetStatusString) status_string;
  decltype(&::cublasLtMatmul) matmul;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) find_algorithm;
  decltype(&::cublasLtMatmulDescCreate) create_operation;
  decltype(&::cublasLtMatmulDescDestroy) destroy_operation;
  decltype(&::cublasLtMatmulDescSetAttribute) set_operation;
  decltype(&::cublasLtMatrixLayoutCreate) create_layout;
  decltype(&::cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&::cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&::cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) set_preference;

  // Throws Error (kInternal) where `status` is not success.
  void check(cublasStatus_t status, const std::string& asked) const;
};

// Loads the library once in a process: from where the loader looks, else from the usual places of
// the CUDA toolkit and of NVIDIA's Python packages. Throws Error (kBadInput) that says what to
// install where it is in none of them. Thread-safe.
const CublasLt& cublaslt();

}  // namespace hetmem::ops::cuda_kernels
