#include "offload/transfer_engine.h"

#include <gtest/gtest.h>

#include <future>
#include <numeric>
#include <vector>

#include "device/cpu/memory_guard.h"
#include "device/thread_pool.h"
#include "device/tier.h"

namespace hetmem {
namespace {

constexpr int64_t kCount = 3001;  // no whole number of cache lines
constexpr int64_t kBytes = kCount * static_cast<int64_t>(sizeof(int));

struct Machine {
  Tier device_tier{"device", 1 << 20};
  Tier host_tier{"host", 1 << 20};
  Buffer device{device_tier, kBytes, MemoryKind::kWeights, MemorySpace::kDevice};
  Buffer host{host_tier, kBytes, MemoryKind::kWeights, MemorySpace::kHost};
  ThreadPool pool{2};
  std::unique_ptr<Device> cpu = make_device({}, pool);
  TransferEngine transfers{*cpu};
};

std::vector<int> numbers() {
  std::vector<int> values(kCount);
  std::iota(values.begin(), values.end(), 5);
  return values;
}

TEST(TransferEngine, CopiesAreWholeAndCountedByDirection) {
  const MemoryGuard::Session guard;
  Machine machine;
  const std::vector<int> sent = numbers();
  std::vector<int> back(kCount);
  machine.transfers.copy_to_device(machine.device.data(), sent.data(), kBytes);
  machine.transfers.copy_to_host(back.data(), machine.device.data(), kBytes - 4);
  EXPECT_EQ(back.back(), 0);
  back.back() = sent.back();
  EXPECT_EQ(back, sent);
  EXPECT_EQ(machine.transfers.bytes_to_device(), kBytes);
  EXPECT_EQ(machine.transfers.bytes_to_host(), kBytes - 4);
}

// What goes out and comes back through both queues: events order them, and nothing else does.
TEST(TransferEngine, EventsOrderTheDirections) {
  Machine machine;
  const std::vector<int> sent = numbers();
  std::vector<int> back(kCount);
  Stream& to_device = machine.transfers.to_device();
  Stream& to_host = machine.transfers.to_host();
  for (int round = 0; round < 50; ++round) {
    std::vector<int> other(kCount, round);
    to_device.copy(machine.device.data(), other.data(), kBytes, CopyDirection::kToDevice);
    to_host.wait(to_device.record());
    to_host.copy(back.data(), machine.device.data(), kBytes, CopyDirection::kToHost);
    to_device.wait(to_host.record());
    to_device.copy(machine.device.data(), sent.data(), kBytes, CopyDirection::kToDevice);
    machine.transfers.synchronize();
    ASSERT_EQ(back, other);
  }
  EXPECT_EQ(machine.transfers.bytes_to_device(), 100 * kBytes);
  EXPECT_EQ(machine.transfers.bytes_to_host(), 50 * kBytes);
}

// A queue that waits for a kernel does not keep the other direction from working.
TEST(TransferEngine, ADirectionDoesNotWaitForTheOther) {
  Machine machine;
  CpuStream compute("compute", machine.pool);
  const std::vector<int> sent = numbers();
  std::promise<void> gate;
  compute.enqueue([&](ThreadPool&) { gate.get_future().wait(); });
  machine.transfers.to_host().wait(compute.record());
  machine.transfers.to_host().copy(machine.host.data(), machine.device.data(), kBytes,
                                   CopyDirection::kToHost);
  machine.transfers.copy_to_device(machine.device.data(), sent.data(), kBytes);
  EXPECT_EQ(machine.transfers.bytes_to_device(), kBytes);
  EXPECT_EQ(machine.transfers.bytes_to_host(), 0);
  gate.set_value();
  machine.transfers.synchronize();
  EXPECT_EQ(machine.transfers.bytes_to_host(), kBytes);
}

}  // namespace
}  // namespace hetmem
