// Traces of random steps: forward and backward passes over layers, in one or more groups of
// micro-batches, with tied, frozen and small chunks. The same seed gives the same trace.
#pragma once

#include <cstdint>

#include "planner/access_trace.h"

namespace hetmem {

// xorshift: the same numbers with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0x1234567u) {
    for (int i = 0; i < 8; ++i) next();
  }
  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(next() % static_cast<uint64_t>(most - least + 1));
  }
  bool chance(int percent) { return between(1, 100) <= percent; }

 private:
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  uint64_t state_;
};

struct RandomTraceOptions {
  int most_layers = 8;
  int most_chunks_a_layer = 3;
  int most_groups = 3;
};

constexpr int64_t kPlenty = int64_t{1} << 40;  // of any memory

AccessTrace random_trace(uint64_t seed, const RandomTraceOptions& options = {});

// Rates with which copies take about as long as ops, more or less.
CopyRates random_rates(uint64_t seed);

// Weights, gradients, m and v.
int64_t state_of(const AccessTrace& trace);

}  // namespace hetmem
