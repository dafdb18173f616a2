// CudaStream: a CUDA stream, fed by a host thread of its own that takes work in order. The one
// header outside of ops/cuda that includes CUDA's; only files in device/cuda and ops/cuda include
// it.
//
//   auto& on = static_cast<CudaStream&>(stream);         // stream.kind() == DeviceKind::kCuda
//   on.enqueue([=](cudaStream_t cuda) {                  // runs on the stream's thread
//     kernel<<<blocks, threads, 0, cuda>>>(...);
//     check_cuda(cudaGetLastError(), "launch the kernel");
//   });
//
// An event of another CUDA stream is waited for on the device; an event of a CPU stream by the
// thread, which launches nothing more before it. Errors of the work, of CUDA ones those that CUDA
// reports at a later call as well, surface at synchronize().
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "device/stream.h"

namespace hetmem {

class CudaStream final : public Stream {
 public:
  // On GPU `device_index`. Throws Error where CUDA refuses the stream.
  CudaStream(std::string name, int device_index);
  ~CudaStream() override;
  DeviceKind kind() const override { return DeviceKind::kCuda; }
  MemorySpace space() const override { return MemorySpace::kDevice; }
  Event record() override;
  void wait(const Event& event) override;
  void synchronize() override;
  void check() override;
  // Host memory that is not pinned is copied too, but then the thread waits for it.
  void copy(void* destination, const void* source, int64_t bytes, CopyDirection direction) override;
  // Counted when CUDA has taken the copy: moved by the next synchronize().
  int64_t copied_bytes(CopyDirection direction) const override;
  // By the clock of the device, from the moment at which the stream came to the event; up to the
  // last synchronize().
  double waited_seconds() const override;
  void start_timer() override;
  void stop_timer(double& seconds) override;

  // Runs `work` on the stream's thread, after what was enqueued before and with device_index()
  // current; it enqueues kernels on the CUDA stream. A launch that CUDA refused is found after it.
  void enqueue(std::function<void(cudaStream_t)> work);
  int device_index() const;
  const std::string& name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Throws Error where `code` is not cudaSuccess, naming it and what was asked: kDoesNotFit where
// memory is short, kBadInput where the GPU cannot be used here and now, kStorage where its memory
// or a link has failed, as a copy that fails on the CPU does; else kInternal.
void check_cuda(cudaError_t code, const std::string& asked);

}  // namespace hetmem
