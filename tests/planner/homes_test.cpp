// Where the parts of chunks go when the host is too small for them.
#include "planner/homes.h"

#include <gtest/gtest.h>

#include "tests/planner/random_trace.h"

namespace hetmem {
namespace {

AccessTrace two_passes(size_t chunks) {
  AccessTrace trace;
  const int ops = static_cast<int>(2 * chunks);
  trace.op_seconds.assign(2 * chunks, 1.0);
  for (size_t c = 0; c < chunks; ++c) {
    TraceChunk chunk;
    chunk.weight_bytes = 4;
    chunk.gradient_bytes = 4;
    chunk.optimizer_bytes = 8;
    const int back = ops - 1 - static_cast<int>(c);
    chunk.reads = {static_cast<int>(c), back};
    chunk.writes = {{back, back}};
    trace.chunks.push_back(chunk);
  }
  return trace;
}

TEST(Homes, WithoutADiskAllIsOnTheHost) {
  const AccessTrace trace = two_passes(3);
  const Homes homes = choose_homes(trace, {false, true, false}, 0, false);
  EXPECT_EQ(homes.host_bytes, 2 * 16);
  EXPECT_FALSE(homes.any_on_disk());
}

// Weights pass the disk four times a step for each of their bytes, all else twice.
TEST(Homes, WeightsStayInMemoryFirst) {
  const AccessTrace trace = two_passes(4);
  const std::vector<bool> none(4, false);
  for (int64_t host = 0; host <= 4 * 16; host += 4) {
    const Homes homes = choose_homes(trace, none, host, true);
    EXPECT_LE(homes.host_bytes, host);
    EXPECT_EQ(homes.host_bytes + homes.disk_bytes, 4 * 16);
    EXPECT_GT(homes.host_bytes, host - 8);
    int weights = 0;
    int others = 0;
    for (const ChunkPlaces& places : homes.chunks) {
      weights += places.weights_on_disk ? 0 : 1;
      others += (places.gradient_on_disk ? 0 : 1) + (places.optimizer_on_disk ? 0 : 1);
    }
    EXPECT_EQ(weights, std::min<int64_t>(4, host / 4));
    if (weights < 4) {
      EXPECT_EQ(others, 0);
    }
  }
}

TEST(Homes, OfRandomTracesKeepTheBudget) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const AccessTrace trace = random_trace(seed);
    const std::vector<bool> none(trace.chunks.size(), false);
    const Homes all = choose_homes(trace, none, 0, true);
    EXPECT_EQ(all.host_bytes, 0);
    for (const int eighths : {1, 4, 7, 8}) {
      const int64_t host = all.disk_bytes / 8 * eighths;
      const Homes homes = choose_homes(trace, none, host, true);
      EXPECT_LE(homes.host_bytes, host);
      EXPECT_EQ(homes.host_bytes + homes.disk_bytes, all.disk_bytes);
    }
    EXPECT_FALSE(choose_homes(trace, none, all.disk_bytes, true).any_on_disk());
  }
}

}  // namespace
}  // namespace hetmem
