// When each chunk is in the pool: the stays of streamed weights and of gradients, for one choice of
// chunks that stay on the device, one lead of the prefetches and one limit of bytes. Part of
// make_plan(). Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/access_trace.h"
#include "planner/copy_times.h"
#include "planner/offsets.h"
#include "planner/plan.h"

namespace hetmem::planner {

// How much earlier than their copies take, by the rates, prefetches start: 0 is on demand,
// kAsEarlyAsFits has no bound but memory.
struct Lead {
  double before_holding = 1.0;  // what has its room before chunks are held in the rest
  double last = 1.0;            // what may take the room that is left then
  double leaving = 1.0;         // the same of copies to the host: how long the place is left alone
};

struct StayChoice {
  std::vector<bool> resident;  // by chunk
  Lead lead;
  // Bytes of the pool up to which copies start earlier and chunks are held between their uses. What
  // is alive on demand is never less.
  int64_t limit = 0;
  // By use (Stays::uses of them): not held before it, though there is room. Empty: none.
  std::vector<bool> dropped;
};

struct Stays {
  std::vector<Residency> residencies;
  int64_t most_alive = 0;  // bytes in the pool, at the fullest op
  size_t uses = 0;         // before which something could be held or dropped
};

// Ops count as in the trace; one more, trace.ops(), stands for the optimizer.
Stays choose_stays(const AccessTrace& trace, const CopyRates& rates, const StayChoice& choice);

// Whether `b`, of the same chunk, is the next stay of what `a` ends with, so that they may be one.
template <typename Stay>
bool may_follow(const Stay& a, const Stay& b) {
  if (a.chunk != b.chunk || !b.fetch) return false;
  return a.gradient ? !b.weights : b.weights;
}

// When a residency takes memory.
PlannedInterval interval_of(const Residency& residency);
PlannedInterval interval_of(const TraceBuffer& buffer);

}  // namespace hetmem::planner
