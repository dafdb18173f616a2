#include "core/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace hetmem {
namespace {

// The known answers that Random123 publishes for philox4x32-10 (kat_vectors): counter
// {index low, index high, stream low, stream high}, key {low, high}.
TEST(Philox, KnownAnswers) {
  const auto zeros = philox(0, 0, 0);
  EXPECT_EQ(zeros, (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const auto ones = philox(~0ULL, ~0ULL, ~0ULL);
  EXPECT_EQ(ones, (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  const auto pi = philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88);
  EXPECT_EQ(pi, (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, NormalsHaveTheMomentsOfANormal) {
  constexpr int kPairs = 100000;
  double sum = 0;
  double squares = 0;
  for (uint64_t i = 0; i < kPairs; ++i) {
    for (const double value : normal_pair(7, 3, i)) {
      sum += value;
      squares += value * value;
    }
  }
  constexpr double kCount = 2.0 * kPairs;
  // Five standard errors: 1/sqrt(n) for the mean, sqrt(2/n) for the variance.
  EXPECT_LT(std::abs(sum / kCount), 5 / std::sqrt(kCount));
  EXPECT_LT(std::abs(squares / kCount - 1), 5 * std::sqrt(2 / kCount));
}

TEST(Permute, IsABijection) {
  for (const uint64_t n : {1ULL, 2ULL, 3ULL, 17ULL, 1000ULL, 4096ULL}) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t value = permute(42, 1, n, i);
      EXPECT_LT(value, n);
      seen.insert(value);
    }
    EXPECT_EQ(seen.size(), n);
  }
}

TEST(Permute, DiffersByEpochAndSeed) {
  int same_epoch = 0;
  int same_seed = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    same_epoch += permute(42, 1, 1000, i) == permute(42, 2, 1000, i) ? 1 : 0;
    same_seed += permute(42, 1, 1000, i) == permute(43, 1, 1000, i) ? 1 : 0;
  }
  // Two random permutations agree at one place on average (Poisson).
  EXPECT_LT(same_epoch, 12);
  EXPECT_LT(same_seed, 12);
}

}  // namespace
}  // namespace hetmem
