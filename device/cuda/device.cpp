// GPUs by CUDA: their memory, and host memory that is pinned so that copies need no thread.
#include "device/device.h"

#include <cuda_runtime.h>

#include <utility>

#include "core/byte_size.h"
#include "core/error.h"
#include "device/cuda/cuda_stream.h"

namespace hetmem {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string architecture_text(int capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

// Device memory. A block is taken whole and cleared when it is allocated.
class CudaMemory final : public Memory {
 public:
  explicit CudaMemory(int index) : index_(index) {}

  void* allocate(int64_t bytes, MemorySpace /*space*/, const std::string& tier) override {
    check_cuda(cudaSetDevice(index_), "use GPU " + std::to_string(index_));
    void* memory = nullptr;
    const cudaError_t code = cudaMalloc(&memory, static_cast<size_t>(bytes));
    if (code != cudaSuccess) refuse(code, bytes, tier);
    // On the default stream, which other streams do not wait for: so the caller does.
    cudaError_t cleared = cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), nullptr);
    if (cleared == cudaSuccess) cleared = cudaStreamSynchronize(nullptr);
    if (cleared != cudaSuccess) {
      cudaFree(memory);
      check_cuda(cleared, "clear " + format_byte_size(bytes) + " of " + tier + " memory");
    }
    return memory;
  }

  void release(void* memory, int64_t /*bytes*/) noexcept override {
    cudaSetDevice(index_);
    cudaFree(memory);
  }
  void populate(void* /*memory*/, int64_t /*bytes*/) override {}
  int64_t touched_bytes(const void* /*memory*/, int64_t bytes) const override { return bytes; }

 private:
  [[noreturn]] void refuse(cudaError_t code, int64_t bytes, const std::string& tier) const {
    cudaGetLastError();  // it is told once
    if (code != cudaErrorMemoryAllocation) {
      check_cuda(code, "allocate " + format_byte_size(bytes) + " of " + tier + " memory");
    }
    size_t free = 0;
    size_t all = 0;
    cudaMemGetInfo(&free, &all);
    throw Error(ErrorKind::kDoesNotFit, "GPU " + std::to_string(index_) + " refused " +
                                            format_byte_size(bytes) + " of " + tier + " memory (" +
                                            cudaGetErrorName(code) +
                                            "): " + format_byte_size(static_cast<int64_t>(free)) +
                                            " of " + format_byte_size(static_cast<int64_t>(all)) +
                                            " are free; lower --" + tier + "-memory");
  }

  const int index_;
};

// The operating system's pages, pinned: all of them are there from the start.
class PinnedMemory final : public Memory {
 public:
  explicit PinnedMemory(int index) : index_(index) {}

  void* allocate(int64_t bytes, MemorySpace space, const std::string& tier) override {
    void* memory = system_memory().allocate(bytes, space, tier);
    try {
      system_memory().populate(memory, bytes);
      check_cuda(cudaSetDevice(index_), "use GPU " + std::to_string(index_));
      const cudaError_t code =
          cudaHostRegister(memory, static_cast<size_t>(bytes), cudaHostRegisterPortable);
      if (code != cudaSuccess) {
        cudaGetLastError();
        throw Error(ErrorKind::kDoesNotFit, "cannot pin " + format_byte_size(bytes) + " of " +
                                                tier + " memory for copies to the GPU (" +
                                                cudaGetErrorName(code) + "); lower --" + tier +
                                                "-memory, or raise the limit of locked memory");
      }
    } catch (...) {
      system_memory().release(memory, bytes);
      throw;
    }
    return memory;
  }

  void release(void* memory, int64_t bytes) noexcept override {
    cudaHostUnregister(memory);
    system_memory().release(memory, bytes);
  }
  void populate(void* /*memory*/, int64_t /*bytes*/) override {}
  int64_t touched_bytes(const void* memory, int64_t bytes) const override {
    return system_memory().touched_bytes(memory, bytes);
  }

 private:
  const int index_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index), memory_(index), host_memory_(index) {}
  DeviceId id() const override { return {DeviceKind::kCuda, index_}; }
  std::unique_ptr<Stream> make_stream(const std::string& name) override {
    return std::make_unique<CudaStream>(name, index_);
  }
  Memory& memory() override { return memory_; }
  Memory& host_memory() override { return host_memory_; }
  int64_t free_memory() const override {
    check_cuda(cudaSetDevice(index_), "use GPU " + std::to_string(index_));
    size_t free = 0;
    size_t all = 0;
    check_cuda(cudaMemGetInfo(&free, &all), "ask for the free memory of the GPU");
    return static_cast<int64_t>(free);
  }

 private:
  const int index_;
  CudaMemory memory_;
  PinnedMemory host_memory_;
};

}  // namespace

std::string cuda_version() { return version_text(CUDART_VERSION); }

GpuList list_gpus() {
  GpuList list;
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  cudaGetLastError();  // it is told once
  if (code == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    list.reason = driver == 0 ? "there is no NVIDIA driver"
                              : "the driver serves CUDA " + version_text(driver) +
                                    ", this hetmem needs " + cuda_version();
    return list;
  }
  if (code != cudaSuccess || count == 0) {
    list.reason = code == cudaSuccess || code == cudaErrorNoDevice
                      ? "the driver knows no GPU"
                      : std::string(cudaGetErrorName(code)) + ", " + cudaGetErrorString(code);
    return list;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, i),
               "ask what GPU " + std::to_string(i) + " is");
    Gpu gpu{properties.name, static_cast<int64_t>(properties.totalGlobalMem), ""};
    // What is compiled for an architecture, as PTX too, serves later ones.
    const int capability = 10 * properties.major + properties.minor;
    if (capability < HETMEM_CUDA_LEAST_ARCHITECTURE) {
      gpu.unusable = "compute capability " + architecture_text(capability) +
                     ", this hetmem is built for " +
                     architecture_text(HETMEM_CUDA_LEAST_ARCHITECTURE) + " and later";
    }
    list.gpus.push_back(std::move(gpu));
  }
  return list;
}

std::unique_ptr<Device> make_gpu(int index) { return std::make_unique<CudaDevice>(index); }

}  // namespace hetmem
