#include "cuda_backends.h"

#include "core/error.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/kernels.h"

namespace hetmem::testing_ops {
namespace {

namespace emulated = ops::cuda_emulated;

const std::vector<CudaBackend>& all() {
  static const std::vector<CudaBackend> backends = [] {
    std::vector<CudaBackend> made = device_backends();
    made.insert(made.begin(), emulated_backend());
    return made;
  }();
  return backends;
}

}  // namespace

CudaBackend emulated_backend() {
  CudaBackend backend;
  backend.ops = {"emulated", [](const OpCall& call) { emulated::run({}, call); },
                 emulated::workspace_bytes, ops::cpu::parts};
  backend.cached_attention = [](const OpCall& call, const ops::KeyValueRows& cache) {
    emulated::cached_attention({}, call, cache);
  };
  backend.adamw_step = [](const ops::AdamWStep& step, const TensorView& weight,
                          const TensorView& gradient, const TensorView& m, const TensorView& v,
                          const TensorView& low) {
    emulated::adamw_step({}, step, weight, gradient, m, v, low);
  };
  backend.adamw_8bit_step = [](const ops::AdamWStep& step, const TensorView& weight,
                               const TensorView& gradient, const TensorView& m, const TensorView& v,
                               const TensorView& low) {
    emulated::adamw_8bit_step({}, step, weight, gradient, m, v, low);
  };
  backend.sgd_step = [](const ops::SgdStep& step, const TensorView& weight,
                        const TensorView& gradient, const TensorView& momentum,
                        const TensorView& low) {
    emulated::sgd_step({}, step, weight, gradient, momentum, low);
  };
  backend.sum_of_squares = [](const TensorView& values, const TensorView& sum, bool accumulate) {
    std::vector<double> parts(emulated::kSumsAtOnce);
    emulated::sum_of_squares({}, values, sum, accumulate, parts.data());
  };
  return backend;
}

std::vector<std::string> cuda_backend_names() {
  std::vector<std::string> names;
  for (const CudaBackend& backend : all()) names.push_back(backend.ops.name);
  return names;
}

const CudaBackend& cuda_backend(const std::string& name) {
  for (const CudaBackend& backend : all()) {
    if (backend.ops.name == name) return backend;
  }
  throw Error(ErrorKind::kInternal, "there is no backend " + name);
}

}  // namespace hetmem::testing_ops
