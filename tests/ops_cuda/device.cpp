// The CUDA backend on the first GPU, for operands in host memory: they are copied there for each
// call, and back.
#include <algorithm>
#include <map>
#include <memory>

#include "cuda_backends.h"
#include "device/cuda/cuda_stream.h"
#include "ops/cuda/backend.h"

namespace hetmem::testing_ops {
namespace {

namespace cuda = ops::cuda_backend;

struct Free {
  void operator()(void* data) const { cudaFree(data); }
};

// Copies of host memory on the device, one for each range: operands that share memory share it
// there.
class Staging {
 public:
  TensorView put(const TensorView& host) {
    if (!host) return host;
    auto& copy = copies_[host.data];
    if (!copy.data) {
      copy.bytes = std::max(copy.bytes, host.bytes());
      void* data = nullptr;
      check_cuda(cudaMalloc(&data, static_cast<size_t>(copy.bytes) + 1), "allocate an operand");
      copy.data.reset(data);
      check_cuda(cudaMemcpy(data, host.data, static_cast<size_t>(copy.bytes), cudaMemcpyDefault),
                 "copy an operand");
    }
    TensorView view = host;
    view.data = copy.data.get();
    return view;
  }
  std::vector<TensorView> put(const std::vector<TensorView>& views) {
    std::vector<TensorView> staged;
    for (const TensorView& view : views) staged.push_back(put(view));
    return staged;
  }
  OpCall put(OpCall call) {
    // An output may be wider than the input whose memory it shares.
    for (const TensorView& output : call.outputs) {
      if (output) copies_[output.data].bytes = output.bytes();
    }
    call.inputs = put(call.inputs);
    call.outputs = put(call.outputs);
    call.workspace = put(call.workspace);
    return call;
  }
  void fetch() const {
    for (const auto& [host, copy] : copies_) {
      check_cuda(
          cudaMemcpy(host, copy.data.get(), static_cast<size_t>(copy.bytes), cudaMemcpyDefault),
          "fetch a result");
    }
  }

 private:
  struct Copy {
    std::unique_ptr<void, Free> data;
    int64_t bytes = 0;
  };
  std::map<void*, Copy> copies_;
};

CudaStream& stream() {
  static CudaStream made("compute", 0);
  return made;
}

// Runs body(staging) on the stream.
template <typename Body>
void on_device(const Body& body) {
  Staging staging;
  body(staging);
  stream().synchronize();
  staging.fetch();
}

std::string why_unavailable() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count > 0 ? "" : "there is no GPU";
}

}  // namespace

std::vector<CudaBackend> device_backends() {
  CudaBackend backend;
  backend.unavailable = why_unavailable();
  backend.ops = {"gpu",
                 [](const OpCall& call) {
                   on_device([&](Staging& staging) { cuda::launch(stream(), staging.put(call)); });
                 },
                 cuda::workspace_bytes, cuda::parts};
  backend.cached_attention = [](const OpCall& call, const ops::KeyValueRows& cache) {
    on_device([&](Staging& staging) {
      cuda::cached_attention(stream(), staging.put(call),
                             {staging.put(cache.keys), staging.put(cache.values), cache.position});
    });
  };
  backend.adamw_step = [](const ops::AdamWStep& step, const TensorView& weight,
                          const TensorView& gradient, const TensorView& m, const TensorView& v,
                          const TensorView& low) {
    on_device([&](Staging& staging) {
      cuda::adamw_step(stream(), step, staging.put(weight), staging.put(gradient), staging.put(m),
                       staging.put(v), staging.put(low));
    });
  };
  backend.adamw_8bit_step = [](const ops::AdamWStep& step, const TensorView& weight,
                               const TensorView& gradient, const TensorView& m, const TensorView& v,
                               const TensorView& low) {
    on_device([&](Staging& staging) {
      cuda::adamw_8bit_step(stream(), step, staging.put(weight), staging.put(gradient),
                            staging.put(m), staging.put(v), staging.put(low));
    });
  };
  backend.sgd_step = [](const ops::SgdStep& step, const TensorView& weight,
                        const TensorView& gradient, const TensorView& momentum,
                        const TensorView& low) {
    on_device([&](Staging& staging) {
      cuda::sgd_step(stream(), step, staging.put(weight), staging.put(gradient),
                     staging.put(momentum), staging.put(low));
    });
  };
  backend.sum_of_squares = [](const TensorView& values, const TensorView& sum, bool accumulate) {
    on_device([&](Staging& staging) {
      cuda::sum_of_squares(stream(), staging.put(values), staging.put(sum), accumulate);
    });
  };
  return {backend};
}

}  // namespace hetmem::testing_ops
