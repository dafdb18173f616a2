// What there is of GPUs in a build without CUDA.
#include "device/device.h"

#include "core/error.h"

namespace hetmem {

GpuList list_gpus() { return {{}, "this hetmem was built without CUDA"}; }

std::unique_ptr<Device> make_gpu(int /*index*/) {
  throw Error(ErrorKind::kBadInput, "this hetmem was built without CUDA");
}

std::string cuda_version() { return "none"; }

}  // namespace hetmem
