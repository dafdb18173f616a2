// What the tests of the CUDA backend run on: its kernels under the block emulator and, in a build
// with CUDA, on the first GPU. All operands lie in host memory, and a call is done when it returns.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "op_case.h"
#include "ops/ops.h"

namespace hetmem::testing_ops {

struct CudaBackend {
  Backend ops;
  std::string unavailable;  // why it cannot run here; empty where it can
  std::function<void(const OpCall&, const ops::KeyValueRows&)> cached_attention;
  std::function<void(const ops::AdamWStep&, const TensorView& weight, const TensorView& gradient,
                     const TensorView& m, const TensorView& v, const TensorView& low)>
      adamw_step;
  std::function<void(const ops::AdamWStep&, const TensorView& weight, const TensorView& gradient,
                     const TensorView& m, const TensorView& v, const TensorView& low)>
      adamw_8bit_step;
  std::function<void(const ops::SgdStep&, const TensorView& weight, const TensorView& gradient,
                     const TensorView& momentum, const TensorView& low)>
      sgd_step;
  std::function<void(const TensorView& values, const TensorView& sum, bool accumulate)>
      sum_of_squares;
};

CudaBackend emulated_backend();
// On GPUs; none in a build without CUDA.
std::vector<CudaBackend> device_backends();
// Both, by name.
std::vector<std::string> cuda_backend_names();
const CudaBackend& cuda_backend(const std::string& name);

}  // namespace hetmem::testing_ops
