// Offset assignment: given sizes and lifetimes, one offset each in a common pool so that no two
// that live at once overlap. A portfolio of greedy orders (size, duration, size x duration, start)
// with first and best fit, the smallest kept. Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace hetmem {

struct PlannedInterval {
  int64_t bytes = 0;
  int first = 0;  // steps, both included
  int last = 0;
};

struct OffsetPlan {
  std::vector<int64_t> offsets;  // by interval, multiples of kPlanAlignment
  int64_t pool_bytes = 0;
  int64_t lower_bound = 0;  // the most bytes alive at one step (after alignment)
};

constexpr int64_t kPlanAlignment = 512;
// Bytes that something takes in the pool.
constexpr int64_t planned_bytes(int64_t bytes) {
  return (bytes + kPlanAlignment - 1) / kPlanAlignment * kPlanAlignment;
}

// `wanted`: a pool of so many bytes is as good as a smaller one.
OffsetPlan assign_offsets(const std::vector<PlannedInterval>& intervals, int64_t wanted = 0);

}  // namespace hetmem
