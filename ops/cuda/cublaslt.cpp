#include "ops/cuda/cublaslt.h"

#include <dlfcn.h>

#include <array>

#include "core/error.h"

namespace hetmem::ops::cuda_kernels {
namespace {

constexpr const char* kLibrary = "libcublasLt.so.13";
constexpr std::array kPlaces{"", "/usr/local/cuda/lib64/", "/usr/local/cuda-13/lib64/",
                             "/usr/local/cuda-13.0/lib64/"};

void* open_library() {
  std::string reasons;
  for (const char* place : kPlaces) {
    const std::string path = std::string(place) + kLibrary;
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* reason = dlerror();
    reasons += std::string("\n  ") + (reason != nullptr ? reason : path.c_str());
  }
  throw Error(ErrorKind::kBadInput,
              std::string("matrix products on a CUDA device need ") + kLibrary +
                  ", which was not found:" + reasons +
                  "\ninstall cuBLAS 13 (the package libcublas-13-0, or pip install nvidia-cublas) "
                  "and put its folder on LD_LIBRARY_PATH, or set device: cpu");
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr) {
    throw Error(ErrorKind::kBadInput, std::string(kLibrary) + " has no " + name +
                                          ": it is damaged or of another version; install "
                                          "cuBLAS 13 again");
  }
  function = reinterpret_cast<Function>(symbol);
}

CublasLt load() {
  void* const library = open_library();
  CublasLt lt{};
  find(library, "cublasLtCreate", lt.create);
  find(library, "cublasLtDestroy", lt.destroy);
  find(library, "cublasLtGetStatusString", lt.status_string);
  find(library, "cublasLtMatmul", lt.matmul);
  find(library, "cublasLtMatmulAlgoGetHeuristic", lt.find_algorithm);
  find(library, "cublasLtMatmulDescCreate", lt.create_operation);
  find(library, "cublasLtMatmulDescDestroy", lt.destroy_operation);
  find(library, "cublasLtMatmulDescSetAttribute", lt.set_operation);
  find(library, "cublasLtMatrixLayoutCreate", lt.create_layout);
  find(library, "cublasLtMatrixLayoutDestroy", lt.destroy_layout);
  find(library, "cublasLtMatmulPreferenceCreate", lt.create_preference);
  find(library, "cublasLtMatmulPreferenceDestroy", lt.destroy_preference);
  find(library, "cublasLtMatmulPreferenceSetAttribute", lt.set_preference);
  return lt;
}

}  // namespace

void CublasLt::check(cublasStatus_t status, const std::string& asked) const {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ErrorKind::kInternal,
              "cuBLASLt could not " + asked + ": " + std::string(status_string(status)));
}

const CublasLt& cublaslt() {
  static const CublasLt lt = load();
  return lt;
}

}  // namespace hetmem::ops::cuda_kernels
