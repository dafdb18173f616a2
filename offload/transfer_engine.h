// TransferEngine: the copies between device and host memory, one queue for each direction of the
// link, shared by everything that moves. Who enqueues orders by deadline (the Plan does); events
// order copies and the work around them. Copies count their bytes where they are made.
//
//   TransferEngine transfers(device);
//   transfers.to_device().wait(freed);
//   transfers.to_device().copy(slot, home, bytes, CopyDirection::kToDevice);
//   compute.wait(transfers.to_device().record());
//
// Not thread-safe: one thread feeds it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "device/device.h"

namespace hetmem {

class TransferEngine {
 public:
  // `device` outlives it.
  explicit TransferEngine(Device& device);
  Stream& to_device() { return *to_device_; }
  Stream& to_host() { return *to_host_; }
  // Bytes moved so far over the link, by the copies themselves.
  int64_t bytes_to_device() const { return to_device_->copied_bytes(CopyDirection::kToDevice); }
  int64_t bytes_to_host() const { return to_host_->copied_bytes(CopyDirection::kToHost); }
  // A queue for copies that are no part of a step: fed by a thread of their own, counted nowhere.
  std::unique_ptr<Stream> make_stream(const std::string& name) { return device_.make_stream(name); }
  // Host memory that its copies reach as fast as they can.
  Memory& host_memory() { return device_.host_memory(); }
  // Waits for both queues; rethrows their first error.
  void synchronize();
  // Copies that are done when the call returns.
  void copy_to_device(void* destination, const void* source, int64_t bytes);
  void copy_to_host(void* destination, const void* source, int64_t bytes);

 private:
  Device& device_;
  std::unique_ptr<Stream> to_device_;
  std::unique_ptr<Stream> to_host_;
};

}  // namespace hetmem
