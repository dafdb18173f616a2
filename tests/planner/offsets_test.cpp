#include "planner/offsets.h"

#include <gtest/gtest.h>

#include <random>

namespace hetmem {
namespace {

int64_t rounded(int64_t bytes) {
  return (bytes + kPlanAlignment - 1) / kPlanAlignment * kPlanAlignment;
}

bool live_together(const PlannedInterval& a, const PlannedInterval& b) {
  return a.first <= b.last && b.first <= a.last;
}

// Independent of the planner: no two that live together overlap, all are inside the pool.
void expect_sound(const std::vector<PlannedInterval>& intervals, const OffsetPlan& plan) {
  ASSERT_EQ(plan.offsets.size(), intervals.size());
  int64_t end = 0;
  for (size_t i = 0; i < intervals.size(); ++i) {
    EXPECT_EQ(plan.offsets[i] % kPlanAlignment, 0);
    end = std::max(end, plan.offsets[i] + rounded(intervals[i].bytes));
    for (size_t j = 0; j < i; ++j) {
      if (!live_together(intervals[i], intervals[j])) continue;
      EXPECT_TRUE(plan.offsets[i] + intervals[i].bytes <= plan.offsets[j] ||
                  plan.offsets[j] + intervals[j].bytes <= plan.offsets[i]);
    }
  }
  EXPECT_LE(end, plan.pool_bytes);
  int64_t bound = 0;
  for (const PlannedInterval& at : intervals) {
    int64_t sum = 0;
    for (const PlannedInterval& other : intervals) {
      if (other.first <= at.first && at.first <= other.last) sum += rounded(other.bytes);
    }
    bound = std::max(bound, sum);
  }
  EXPECT_EQ(plan.lower_bound, bound);
  EXPECT_GE(plan.pool_bytes, plan.lower_bound);
}

TEST(Offsets, DisjointLivesShareAPlace) {
  const OffsetPlan plan = assign_offsets({{4096, 0, 1}, {4096, 2, 3}, {4096, 4, 4}});
  EXPECT_EQ(plan.pool_bytes, 4096);
}

TEST(Offsets, ANestOfLivesIsTight) {
  std::vector<PlannedInterval> nest;
  for (int i = 0; i < 20; ++i) nest.push_back({1024 * (i + 1), i, 40 - i});
  const OffsetPlan plan = assign_offsets(nest);
  expect_sound(nest, plan);
  EXPECT_EQ(plan.pool_bytes, plan.lower_bound);
}

TEST(Offsets, RandomLivesAreSoundAndCloseToTheBound) {
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<PlannedInterval> intervals;
    const int count = 1 + static_cast<int>(random() % 60);
    for (int i = 0; i < count; ++i) {
      const int first = static_cast<int>(random() % 100);
      intervals.push_back({static_cast<int64_t>(random() % 100000), first,
                           first + static_cast<int>(random() % 20)});
    }
    const OffsetPlan plan = assign_offsets(intervals);
    expect_sound(intervals, plan);
    EXPECT_LE(static_cast<double>(plan.pool_bytes), 1.35 * static_cast<double>(plan.lower_bound));
  }
}

TEST(Offsets, NothingTakesNothing) { EXPECT_EQ(assign_offsets({}).pool_bytes, 0); }

}  // namespace
}  // namespace hetmem
