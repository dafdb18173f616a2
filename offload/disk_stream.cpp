#include "offload/disk_stream.h"

#include <exception>
#include <memory>
#include <utility>

#include "core/trace.h"
#include "device/cpu/memory_guard.h"
#include "device/cpu/streaming_copy.h"
#include "device/host_event.h"

namespace hetmem {

DiskStream::DiskStream(std::string name, DiskTier& disk) : name_(std::move(name)), disk_(disk) {}

void DiskStream::push(std::function<DiskOperation()> start) {
  starts_.push([this, start = std::move(start)] {
    if (failed_.load()) return;
    auto operation = std::make_shared<DiskOperation>(start());
    finishes_.push([this, operation] {
      const trace::Range range(name_, "transfer");
      try {
        operation->wait();
      } catch (...) {
        failed_.store(true);
        throw;
      }
    });
  });
}

void DiskStream::push_finish(std::function<void()> work) {
  starts_.push([this, work = std::move(work)]() mutable { finishes_.push(std::move(work)); });
}

void DiskStream::write(const DiskSlot& slot, const void* data, int64_t generation) {
  push([this, &slot, data, generation] { return disk_.write(slot, data, generation); });
}

void DiskStream::read(const DiskSlot& slot, void* destination, int64_t generation) {
  push(
      [this, &slot, destination, generation] { return disk_.read(slot, destination, generation); });
}

Event DiskStream::record() {
  auto event = std::make_shared<HostEvent>();
  starts_.push_ordering([this, event] { finishes_.push_ordering([event] { event->set(); }); });
  return Event(event);
}

void DiskStream::wait(const Event& event) {
  if (!event.state()) return;
  starts_.push_ordering([this, other = event.state()] {
    if (other->complete()) return;
    const trace::Range range(name_, "wait");
    const auto begin = Clock::now();
    other->synchronize();
    const std::chrono::nanoseconds waited = Clock::now() - begin;
    waited_nanoseconds_.fetch_add(waited.count());
  });
}

void DiskStream::synchronize() {
  std::exception_ptr error;
  for (WorkQueue* queue : {&starts_, &finishes_}) {
    try {
      queue->synchronize();
    } catch (...) {
      error = std::current_exception();  // that of the finishes is the earlier one
    }
  }
  failed_.store(false);
  if (error) std::rethrow_exception(error);
}

void DiskStream::check() {
  finishes_.check();  // their errors come before those of the starts
  starts_.check();
}

void DiskStream::copy(void* destination, const void* source, int64_t bytes,
                      CopyDirection direction) {
  const Event before = record();  // unlike transfers, copies are in order with all other work
  wait(before);
  starts_.push([this, destination, source, bytes, direction] {
    if (failed_.load()) return;
    const trace::Range range(name_, "copy");
    const MemoryGuard::Scope scope(MemoryGuard::Access::kCopy);
    streaming_copy(destination, source, bytes);
    copied_.at(static_cast<size_t>(direction)).fetch_add(bytes);
  });
}

int64_t DiskStream::copied_bytes(CopyDirection direction) const {
  return copied_.at(static_cast<size_t>(direction)).load();
}

double DiskStream::waited_seconds() const {
  return static_cast<double>(waited_nanoseconds_.load()) * 1e-9;
}

void DiskStream::start_timer() {
  push_finish([this] { timer_start_ = Clock::now(); });
}

void DiskStream::stop_timer(double& seconds) {
  push_finish([this, &seconds] {
    seconds = std::chrono::duration<double>(Clock::now() - timer_start_).count();
  });
}

}  // namespace hetmem
