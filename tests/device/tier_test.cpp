#include "device/tier.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>

#include "core/error.h"

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

TEST(MemoryInfo, IsPlausible) {
  EXPECT_GT(available_memory(), 0);
  EXPECT_GT(resident_bytes(), 0);
  EXPECT_GE(peak_resident_bytes(), resident_bytes() / 2);
}

}  // namespace
}  // namespace hetmem
