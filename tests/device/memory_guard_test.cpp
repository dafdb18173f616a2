#include "device/cpu/memory_guard.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <vector>

#include "device/stream.h"
#include "device/thread_pool.h"
#include "device/tier.h"

namespace hetmem {
namespace {

constexpr int64_t kCount = 1000;
constexpr int64_t kBytes = kCount * static_cast<int64_t>(sizeof(int));

// Two tiers with a Buffer and a stream each.
struct Machine {
  ThreadPool pool{2};
  Tier device_tier{"device", 1 << 20};
  Tier host_tier{"host", 1 << 20};
  Buffer device{device_tier, kBytes, MemoryKind::kWeights, MemorySpace::kDevice};
  Buffer host{host_tier, kBytes, MemoryKind::kWeights, MemorySpace::kHost};
  CpuStream compute{"compute", pool};
  CpuStream optimizer{"optimizer", pool, MemorySpace::kHost};
};

int* ints(const Buffer& buffer) { return static_cast<int*>(buffer.data()); }
int read(const Buffer& buffer) { return *static_cast<volatile int*>(buffer.data()); }

// The sanitizers' own handlers would turn the signal into an exit.
void die_by_signal() { std::signal(SIGSEGV, SIG_DFL); }

void read_on(CpuStream& stream, const Buffer& buffer) {
  die_by_signal();
  stream.enqueue([&](ThreadPool&) { read(buffer); });
  stream.synchronize();
}

class MemoryGuardDeathTest : public testing::Test {
 protected:
  // A child that starts afresh: streams have threads, which fork() would not bring along.
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  static void kernel_reads_host_memory() {
    const MemoryGuard::Session guard;
    Machine machine;
    read_on(machine.compute, machine.host);
  }
  static void kernel_reads_host_memory_on_a_thread_of_the_pool() {
    die_by_signal();
    const MemoryGuard::Session guard;
    Machine machine;
    machine.compute.enqueue([&](ThreadPool& pool) {
      pool.parallel_for(100, [&](int64_t i) { ints(machine.host)[i] = 1; });
    });
    machine.compute.synchronize();
  }
  static void host_work_reads_device_memory() {
    const MemoryGuard::Session guard;
    Machine machine;
    read_on(machine.optimizer, machine.device);
  }
  static void caller_reads_device_memory(bool after_a_kernel) {
    die_by_signal();
    const MemoryGuard::Session guard;
    Machine machine;
    if (after_a_kernel) {
      machine.compute.enqueue([&](ThreadPool&) { ints(machine.device)[0] = 1; });
      machine.compute.synchronize();
    }
    read(machine.device);
  }
};

TEST_F(MemoryGuardDeathTest, KernelsDieOnHostMemory) {
  EXPECT_EXIT(kernel_reads_host_memory(), testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(kernel_reads_host_memory_on_a_thread_of_the_pool(), testing::KilledBySignal(SIGSEGV),
              "");
}

TEST_F(MemoryGuardDeathTest, HostWorkDiesOnDeviceMemory) {
  EXPECT_EXIT(host_work_reads_device_memory(), testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(MemoryGuardDeathTest, TheCallerDiesOnDeviceMemory) {
  EXPECT_EXIT(caller_reads_device_memory(false), testing::KilledBySignal(SIGSEGV), "");
  EXPECT_EXIT(caller_reads_device_memory(true), testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(MemoryGuardDeathTest, TheEnvironmentTurnsItOn) {
  const auto exit_as_enabled = [] { std::_Exit(MemoryGuard::enabled() ? 3 : 4); };
  setenv("HETMEM_MEMORY_GUARD", "1", 1);
  EXPECT_EXIT(exit_as_enabled(), testing::ExitedWithCode(3), "");
  setenv("HETMEM_MEMORY_GUARD", "0", 1);
  EXPECT_EXIT(exit_as_enabled(), testing::ExitedWithCode(4), "");
  unsetenv("HETMEM_MEMORY_GUARD");
}

TEST(MemoryGuard, IsOffUnlessAskedFor) {
  EXPECT_FALSE(MemoryGuard::enabled());
  {
    const MemoryGuard::Session guard;
    EXPECT_TRUE(MemoryGuard::enabled());
  }
  EXPECT_FALSE(MemoryGuard::enabled());
}

TEST(MemoryGuard, RightUsesWork) {
  const MemoryGuard::Session guard;
  Machine machine;
  for (int i = 0; i < kCount; ++i) ints(machine.host)[i] = i;
  machine.compute.copy(machine.device.data(), machine.host.data(), kBytes,
                       CopyDirection::kToDevice);
  machine.compute.enqueue([&](ThreadPool& pool) {
    pool.parallel_for(kCount, [&](int64_t i) { ints(machine.device)[i] *= 2; });
  });
  machine.optimizer.wait(machine.compute.record());
  machine.optimizer.copy(machine.host.data(), machine.device.data(), kBytes,
                         CopyDirection::kToHost);
  machine.optimizer.enqueue([&](ThreadPool& pool) {
    pool.parallel_for(kCount, [&](int64_t i) { ints(machine.host)[i] += 1; });
  });
  machine.optimizer.synchronize();
  for (int i = 0; i < kCount; ++i) ASSERT_EQ(ints(machine.host)[i], 2 * i + 1);
}

TEST(MemoryGuard, BuffersMayComeGoAndMove) {
  const MemoryGuard::Session guard;
  Machine machine;
  machine.device.populate();
  EXPECT_EQ(machine.device.touched_bytes(), 4096);
  Buffer moved = std::move(machine.device);
  std::unique_ptr<Buffer> made;  // by a work item, in the midst of its access
  machine.compute.enqueue([&](ThreadPool&) {
    ints(moved)[0] = 5;
    made = std::make_unique<Buffer>(machine.device_tier, kBytes, MemoryKind::kWorkspace,
                                    MemorySpace::kDevice);
    made->populate();
    ints(*made)[0] = ints(moved)[0];
    made.reset();
  });
  machine.compute.synchronize();
  moved = Buffer();
  EXPECT_EQ(machine.device_tier.used(), 0);
}

TEST(MemoryGuard, ScopesNestAndOpenMemoryToTheCaller) {
  const MemoryGuard::Session guard;
  const Machine machine;
  const MemoryGuard::Scope copy(MemoryGuard::Access::kCopy);
  ints(machine.device)[0] = 4;
  {
    const MemoryGuard::Scope kernel(MemoryGuard::Access::kKernel);
    ints(machine.device)[0] += 4;
  }
  ints(machine.host)[0] = ints(machine.device)[0];
  EXPECT_EQ(read(machine.host), 8);
}

TEST(MemoryGuard, AnErrorGivesItsAccessBack) {
  const MemoryGuard::Session guard;
  Machine machine;
  machine.compute.enqueue([](ThreadPool&) { throw std::runtime_error("broken"); });
  EXPECT_THROW(machine.compute.synchronize(), std::runtime_error);
  ints(machine.host)[0] = 1;  // taken from kernels, given back to the caller
  machine.optimizer.enqueue([&](ThreadPool&) { ints(machine.host)[0] += 1; });
  machine.optimizer.synchronize();
  EXPECT_EQ(read(machine.host), 2);
}

TEST(MemoryGuard, StreamsThatWaitForEachOtherInTurnDoNotDeadlock) {
  const MemoryGuard::Session guard;
  Machine machine;
  machine.compute.enqueue([&](ThreadPool&) { ints(machine.device)[0] = 0; });
  constexpr int kRounds = 100;
  for (int round = 0; round < kRounds; ++round) {
    machine.optimizer.wait(machine.compute.record());
    machine.optimizer.copy(machine.host.data(), machine.device.data(), kBytes,
                           CopyDirection::kToHost);
    machine.optimizer.enqueue([&](ThreadPool&) { ints(machine.host)[0] += 1; });
    machine.compute.wait(machine.optimizer.record());
    machine.compute.copy(machine.device.data(), machine.host.data(), kBytes,
                         CopyDirection::kToDevice);
    machine.compute.enqueue([&](ThreadPool&) { ints(machine.device)[0] += 1; });
  }
  machine.compute.copy(machine.host.data(), machine.device.data(), kBytes, CopyDirection::kToHost);
  machine.compute.synchronize();
  EXPECT_EQ(read(machine.host), 2 * kRounds);
}

}  // namespace
}  // namespace hetmem
