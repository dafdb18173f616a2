#include "offload/transfer_engine.h"

namespace hetmem {

TransferEngine::TransferEngine(Device& device)
    : device_(device),
      to_device_(device.make_stream("to device")),
      to_host_(device.make_stream("to host")) {}

void TransferEngine::synchronize() {
  to_device_->synchronize();
  to_host_->synchronize();
}

void TransferEngine::copy_to_device(void* destination, const void* source, int64_t bytes) {
  to_device_->copy(destination, source, bytes, CopyDirection::kToDevice);
  to_device_->synchronize();
}

void TransferEngine::copy_to_host(void* destination, const void* source, int64_t bytes) {
  to_host_->copy(destination, source, bytes, CopyDirection::kToHost);
  to_host_->synchronize();
}

}  // namespace hetmem
