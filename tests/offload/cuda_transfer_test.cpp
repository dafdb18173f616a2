#include <gtest/gtest.h>

#include <future>
#include <numeric>

#include "device/thread_pool.h"
#include "device/tier.h"
#include "offload/transfer_engine.h"
#include "tests/gpu.h"

namespace hetmem {
namespace {

constexpr int64_t kCount = 300001;  // no whole number of pages
constexpr int64_t kBytes = kCount * static_cast<int64_t>(sizeof(int));

struct Machine {
  ThreadPool pool{2};
  std::unique_ptr<Device> gpu = make_device(parse_device("cuda"), pool);
  Tier device_tier{"device", 1 << 26, gpu->memory()};
  Tier host_tier{"host", 1 << 26, gpu->host_memory()};
  Buffer device{device_tier, kBytes, MemoryKind::kWeights, MemorySpace::kDevice};
  Buffer host{host_tier, kBytes, MemoryKind::kWeights, MemorySpace::kHost};
  TransferEngine transfers{*gpu};
};

TEST(CudaTransfers, CopiesAreWholeAndCountedByDirection) {
  HETMEM_REQUIRE_GPU();
  Machine machine;
  std::vector<int> sent(kCount);
  std::iota(sent.begin(), sent.end(), 5);
  std::vector<int> back(kCount);
  machine.transfers.copy_to_device(machine.device.data(), sent.data(), kBytes);
  machine.transfers.copy_to_host(back.data(), machine.device.data(), kBytes - 4);
  EXPECT_EQ(back.back(), 0);
  back.back() = sent.back();
  EXPECT_EQ(back, sent);
  EXPECT_EQ(machine.transfers.bytes_to_device(), kBytes);
  EXPECT_EQ(machine.transfers.bytes_to_host(), kBytes - 4);
}

// What the host's work makes goes out, and what comes back the host's work reads, step by step.
TEST(CudaTransfers, EventsOrderTheLinkAndTheHost) {
  HETMEM_REQUIRE_GPU();
  Machine machine;
  CpuStream host("host", machine.pool, MemorySpace::kHost);
  auto* values = static_cast<int*>(machine.host.data());
  Stream& to_device = machine.transfers.to_device();
  Stream& to_host = machine.transfers.to_host();
  constexpr int kRounds = 100;
  for (int round = 0; round < kRounds; ++round) {
    host.enqueue([values](ThreadPool&) {
      for (int64_t i = 0; i < kCount; ++i) ++values[i];
    });
    to_device.wait(host.record());
    to_device.copy(machine.device.data(), values, kBytes, CopyDirection::kToDevice);
    host.wait(to_device.record());
    host.enqueue([values](ThreadPool&) { std::fill(values, values + kCount, -1); });
    to_host.wait(host.record());
    to_host.copy(values, machine.device.data(), kBytes, CopyDirection::kToHost);
    host.wait(to_host.record());
  }
  host.synchronize();
  machine.transfers.synchronize();
  EXPECT_EQ(std::count(values, values + kCount, kRounds), kCount);
  EXPECT_EQ(machine.transfers.bytes_to_device(), kRounds * kBytes);
}

TEST(CudaTransfers, ADirectionDoesNotWaitForTheOther) {
  HETMEM_REQUIRE_GPU();
  Machine machine;
  CpuStream host("host", machine.pool, MemorySpace::kHost);
  const std::vector<int> sent(kCount, 3);
  std::promise<void> gate;
  host.enqueue([&](ThreadPool&) { gate.get_future().wait(); });
  machine.transfers.to_host().wait(host.record());
  machine.transfers.to_host().copy(machine.host.data(), machine.device.data(), kBytes,
                                   CopyDirection::kToHost);
  machine.transfers.copy_to_device(machine.device.data(), sent.data(), kBytes);
  EXPECT_EQ(machine.transfers.bytes_to_device(), kBytes);
  EXPECT_EQ(machine.transfers.bytes_to_host(), 0);
  gate.set_value();
  machine.transfers.synchronize();
  EXPECT_EQ(machine.transfers.bytes_to_host(), kBytes);
  EXPECT_EQ(static_cast<int*>(machine.host.data())[kCount - 1], 3);
}

}  // namespace
}  // namespace hetmem
