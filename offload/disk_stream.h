// DiskStream: reads and writes of a DiskTier as the ordered work of a stream, so that the lanes of
// an executor wait for them and are waited for by events.
//
//   DiskStream reads("disk read", disk);
//   reads.wait(slot_is_free);
//   reads.read(slot, destination, generation);
//   to_device.wait(reads.record());
//
// Work starts in order, when the events that were waited for before it are complete, and does not
// wait for the work before it to end: several folders are busy at once. An event completes when all
// work before it has ended. Fed from one thread at a time. The first error stops the stream and is
// rethrown by synchronize(). Slots and memory outlive the work; so does the tier.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>

#include "device/stream.h"
#include "device/work_queue.h"
#include "offload/disk_tier.h"

namespace hetmem {

class DiskStream final : public Stream {
 public:
  DiskStream(std::string name, DiskTier& disk);
  void write(const DiskSlot& slot, const void* data, int64_t generation);
  void read(const DiskSlot& slot, void* destination, int64_t generation);

  DeviceKind kind() const override { return DeviceKind::kCpu; }
  MemorySpace space() const override { return MemorySpace::kHost; }
  Event record() override;
  void wait(const Event& event) override;
  void synchronize() override;
  void check() override;
  void copy(void* destination, const void* source, int64_t bytes, CopyDirection direction) override;
  int64_t copied_bytes(CopyDirection direction) const override;
  double waited_seconds() const override;
  // From the end of the work before to the end of the work between.
  void start_timer() override;
  void stop_timer(double& seconds) override;

 private:
  using Clock = std::chrono::steady_clock;
  void push(std::function<DiskOperation()> start);
  // Runs when all operations before it have ended.
  void push_finish(std::function<void()> work);

  const std::string name_;
  DiskTier& disk_;
  std::array<std::atomic<int64_t>, kCopyDirections> copied_{};
  std::atomic<int64_t> waited_nanoseconds_{0};
  std::atomic<bool> failed_{false};
  Clock::time_point timer_start_;  // of the thread of finishes_
  WorkQueue finishes_;             // before starts_, which pushes to it until it ends
  WorkQueue starts_;
};

}  // namespace hetmem
