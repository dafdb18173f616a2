#include "device/tier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/fault_plan.h"

namespace hetmem {
namespace {

TEST(Tier, TheSumNeverPassesTheBudget) {
  Tier tier("device", 100);
  const Reservation weights = tier.reserve(60, MemoryKind::kWeights);
  {
    const Reservation saved = tier.reserve(40, MemoryKind::kActivationsSaved);
    EXPECT_EQ(tier.used(), 100);
    try {
      tier.reserve(1, MemoryKind::kWorkspace);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
      EXPECT_NE(std::string(error.what()).find("100"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("device"), std::string::npos);
    }
  }
  EXPECT_EQ(tier.used(), 60);
  EXPECT_EQ(tier.peak(), 100);
  EXPECT_EQ(tier.peak_by_kind()[static_cast<size_t>(MemoryKind::kActivationsSaved)], 40);
}

TEST(Tier, AReservationMovesAndReleasesOnce) {
  Tier tier("host", 100);
  Reservation first = tier.reserve(50, MemoryKind::kStaging);
  Reservation second = std::move(first);
  EXPECT_EQ(tier.used(), 50);
  second = tier.reserve(30, MemoryKind::kStaging);
  EXPECT_EQ(tier.used(), 30);
  second.release();
  second.release();
  EXPECT_EQ(tier.used(), 0);
}

TEST(Tier, IsSafeFromSeveralThreads) {
  Tier tier("device", 8);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&tier] {
      for (int i = 0; i < 1000; ++i) const Reservation r = tier.reserve(2, MemoryKind::kWorkspace);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tier.used(), 0);
  EXPECT_LE(tier.peak(), 8);
}

TEST(Buffer, IsZeroAndInsideItsReservation) {
  Tier tier("device", 1 << 20);
  BytesByKind bytes{};
  bytes[static_cast<size_t>(MemoryKind::kWeights)] = 1000;
  bytes[static_cast<size_t>(MemoryKind::kWorkspace)] = 24;
  Buffer buffer(tier, bytes, MemorySpace::kDevice);
  EXPECT_EQ(tier.used(), 1024);
  const TensorView view = buffer.view(64, DType::kFloat32, Shape{4, 8});
  for (int i = 0; i < 32; ++i) EXPECT_EQ(view.as<float>()[i], 0.0F);
  EXPECT_EQ(view.space, MemorySpace::kDevice);
  EXPECT_THROW(buffer.view(1000, DType::kFloat32, Shape{100}), Error);
  Buffer moved = std::move(buffer);
  EXPECT_EQ(tier.used(), 1024);
  moved = Buffer();
  EXPECT_EQ(tier.used(), 0);
}

// What every caller has to survive: the n-th of its reservations fails, for each n.
TEST(Tier, AReservationCanBeMadeToFail) {
  for (int failing = 1; failing <= 4; ++failing) {
    Tier tier("device", 1000);
    const FaultPlan::Session faults("tier.reserve@device:" + std::to_string(failing) + "=fail");
    std::vector<Reservation> held;
    for (int i = 1; i <= 4; ++i) {
      if (i == failing) {
        EXPECT_THROW(tier.reserve(10, MemoryKind::kWeights), Error);
      } else {
        held.push_back(tier.reserve(10, MemoryKind::kWeights));
      }
    }
    EXPECT_EQ(tier.used(), 30);
  }
}

TEST(Tier, ABufferThatFailsHalfwayGivesBackWhatItHad) {
  BytesByKind bytes{};
  bytes[static_cast<size_t>(MemoryKind::kWeights)] = 100;
  bytes[static_cast<size_t>(MemoryKind::kOptimizer)] = 100;
  Tier tier("host", 1000);
  for (const char* fault : {"tier.reserve@host:2=fail", "memory.allocate@host:1=fail"}) {
    const FaultPlan::Session faults(fault);
    EXPECT_THROW(Buffer(tier, bytes, MemorySpace::kHost), Error);
    EXPECT_EQ(tier.used(), 0);
    EXPECT_EQ(faults.fired(), 1);
  }
  EXPECT_NO_THROW(Buffer(tier, bytes, MemorySpace::kHost));
}

TEST(Tier, ItsBudgetChangesDownToWhatIsUsed) {
  Tier tier("host", 100);
  Reservation held = tier.reserve(60, MemoryKind::kWeights);
  try {
    tier.set_budget(59);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
  }
  EXPECT_EQ(tier.budget(), 100);
  tier.set_budget(60);
  EXPECT_THROW(tier.reserve(1, MemoryKind::kWeights), Error);
  tier.set_budget(200);
  EXPECT_EQ(tier.reserve(140, MemoryKind::kWeights).bytes(), 140);
}

TEST(Tier, AResetPeakStartsFromWhatIsUsed) {
  constexpr auto kWeights = static_cast<size_t>(MemoryKind::kWeights);
  Tier tier("device", 100);
  const Reservation held = tier.reserve(20, MemoryKind::kWeights);
  tier.reserve(60, MemoryKind::kWeights);
  EXPECT_EQ(tier.peak(), 80);
  tier.reset_peak();
  EXPECT_EQ(tier.peak(), 20);
  EXPECT_EQ(tier.peak_by_kind()[kWeights], 20);
  tier.reserve(10, MemoryKind::kWeights);
  EXPECT_EQ(tier.peak(), 30);
  EXPECT_EQ(tier.peak_by_kind()[kWeights], 30);
}

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = int64_t{2} << 20;

TEST(Buffer, TouchedBytesAreThoseOfPagesInUse) {
  Tier tier("device", 1 << 30);
  const int64_t bytes = 100 * kPage + 1;  // less than a huge page: small ones, exact
  Buffer buffer(tier, bytes, MemoryKind::kWeights, MemorySpace::kDevice);
  EXPECT_EQ(buffer.touched_bytes(), 0);
  char* memory = static_cast<char*>(buffer.data());
  memory[0] = memory[1] = memory[50 * kPage] = 1;
  EXPECT_EQ(buffer.touched_bytes(), 2 * kPage);
  memory[bytes - 1] = 1;
  EXPECT_EQ(buffer.touched_bytes(), 3 * kPage);
  buffer.populate();
  EXPECT_EQ(buffer.touched_bytes(), 101 * kPage);
  EXPECT_EQ(memory[50 * kPage], 1);
  EXPECT_EQ(memory[51 * kPage], 0);
  EXPECT_EQ(Buffer().touched_bytes(), 0);
  Buffer().populate();
}

TEST(Buffer, PopulateTouchesTheWholeOfALargeOneAndNothingElse) {
  Tier tier("device", 1 << 30);
  const int64_t bytes = 2 * kHugePage + 3 * kPage;
  std::vector<Buffer> buffers;  // likely neighbours
  for (int i = 0; i < 5; ++i) {
    buffers.emplace_back(tier, bytes, MemoryKind::kWeights, MemorySpace::kDevice);
    buffers.emplace_back(tier, kPage, MemoryKind::kWeights, MemorySpace::kDevice);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffers[static_cast<size_t>(2 * i)].data()) % kHugePage,
              0U);
  }
  EXPECT_EQ(tier.touched_bytes(), 0);
  buffers[4].populate();
  EXPECT_EQ(buffers[4].touched_bytes(), bytes);
  EXPECT_EQ(tier.touched_bytes(), bytes);
}

TEST(Buffer, PopulateTouchesAllPartsAndKeepsContents) {
  Tier tier("host", 1 << 30);
  for (const int64_t bytes : {4 * kHugePage, 9 * kHugePage - kPage, 33 * kHugePage + 5 * kPage}) {
    Buffer buffer(tier, bytes, MemoryKind::kWeights, MemorySpace::kHost);
    char* memory = static_cast<char*>(buffer.data());
    memory[0] = memory[bytes - 1] = 1;
    buffer.populate();
    EXPECT_EQ(buffer.touched_bytes(), bytes);
    EXPECT_EQ(std::count(memory, memory + bytes, 1), 2);
    EXPECT_EQ(std::count(memory, memory + bytes, 0), bytes - 2);
  }
}

TEST(Tier, CountsTheTouchedBytesOfItsLiveBuffers) {
  Tier device("device", 1 << 20);
  Tier host("host", 1 << 20);
  Buffer first(device, 10 * kPage, MemoryKind::kWeights, MemorySpace::kDevice);
  Buffer second(device, 10 * kPage, MemoryKind::kWeights, MemorySpace::kDevice);
  Buffer other(host, 10 * kPage, MemoryKind::kWeights, MemorySpace::kHost);
  EXPECT_EQ(device.touched_bytes(), 0);
  first.populate();
  static_cast<char*>(second.data())[0] = 1;
  other.populate();
  EXPECT_EQ(device.touched_bytes(), 11 * kPage);
  EXPECT_EQ(host.touched_bytes(), 10 * kPage);
  Buffer moved = std::move(first);
  EXPECT_EQ(first.bytes(), 0);  // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_EQ(device.touched_bytes(), 11 * kPage);
  second = std::move(moved);  // the page of `second` goes
  EXPECT_EQ(device.touched_bytes(), 10 * kPage);
  EXPECT_EQ(device.used(), 10 * kPage);
  second = std::move(other);  // from another tier
  EXPECT_EQ(device.touched_bytes(), 0);
  EXPECT_EQ(device.used(), 0);
  EXPECT_EQ(host.touched_bytes(), 10 * kPage);
}

TEST(Tier, BuffersOfSeveralThreadsAreCounted) {
  Tier tier("host", 1 << 20);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&tier] {
      for (int i = 0; i < 100; ++i) {
        Buffer buffer(tier, kPage, MemoryKind::kStaging, MemorySpace::kHost);
        buffer.populate();
        EXPECT_GE(tier.touched_bytes(), kPage);
        const Buffer moved = std::move(buffer);
        EXPECT_EQ(moved.touched_bytes(), kPage);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tier.touched_bytes(), 0);
}

}  // namespace
}  // namespace hetmem
