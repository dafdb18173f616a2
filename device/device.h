// Device: where a model is trained: what makes its streams, and where its memory and the host
// memory beside it come from. The CPU is one, and so is each GPU that CUDA can use.
//
//   ThreadPool pool;
//   const std::unique_ptr<Device> device = make_device(parse_device("cuda:1"), pool);
//   Tier memory("device", bytes, device->memory());
//   const std::unique_ptr<Stream> compute = device->make_stream("compute");
//
// Stays where it is and outlives its streams and the memory that was taken from it. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/memory.h"
#include "device/stream.h"

namespace hetmem {

class ThreadPool;

struct DeviceId {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;  // of the GPU
  friend bool operator==(const DeviceId&, const DeviceId&) = default;
};
// "cpu", "cuda:0"
std::string to_string(const DeviceId& id);

// "cpu", "cuda" or "cuda:N", whether there is one or not; "auto": the first GPU that can be used,
// else the CPU. Throws Error (kBadInput) for anything else.
DeviceId parse_device(const std::string& text);

class Device {
 public:
  Device() = default;
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  virtual DeviceId id() const = 0;
  // A queue for kernels and copies.
  virtual std::unique_ptr<Stream> make_stream(const std::string& name) = 0;
  virtual Memory& memory() = 0;
  // Host memory that copies reach at full speed and without holding up a thread.
  virtual Memory& host_memory() = 0;
  // Bytes of its own memory that are free; -1 where it shares the host's.
  virtual int64_t free_memory() const = 0;
};

// Throws Error (kBadInput) where the device is not there, saying what is. `pool` runs the kernels
// of the CPU and outlives the device.
std::unique_ptr<Device> make_device(const DeviceId& id, ThreadPool& pool);

struct Gpu {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int64_t memory = 0;
  std::string unusable;  // why; empty where it can be used
};

// The GPUs of this machine; where there are none, why: built without CUDA, no driver, ...
struct GpuList {
  std::vector<Gpu> gpus;
  std::string reason;
  // The first that can be used, or -1.
  int first_usable() const;
};
// Asked once a process.
const GpuList& find_gpus();
// The CUDA that this was built with ("13.0"), or "none".
std::string cuda_version();

// What CMake links from cuda/ or no_cuda/: the list without its cache, and a GPU that is in it.
GpuList list_gpus();
std::unique_ptr<Device> make_gpu(int index);

}  // namespace hetmem
