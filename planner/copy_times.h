// When the copies of a step would run by the clock of its ops alone: the latest starts that hide
// what is brought, and when what leaves is gone. Part of make_plan(). Pure.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "planner/access_trace.h"

namespace hetmem::planner {

constexpr double kAsEarlyAsFits = std::numeric_limits<double>::infinity();

// The time at which each op of a step begins: where nothing waits, or as given (one more than ops).
// trace.ops() is the optimizer.
class OpClock {
 public:
  explicit OpClock(const AccessTrace& trace);
  explicit OpClock(std::vector<double> begin) : begin_(std::move(begin)) {}
  double begin(int op) const { return begin_[static_cast<size_t>(op)]; }
  // The last op that begins at or before a time; -1 before the step.
  int op_at(double time) const;
  int ops() const { return static_cast<int>(begin_.size()) - 1; }

 private:
  std::vector<double> begin_;
};

// A copy and the op that it belongs to: the first use of what is brought, the last one of what
// leaves. Those of one direction follow each other on their link.
struct LinkCopy {
  int64_t bytes = 0;
  int op = 0;
};

// For copies to the device in the order of their ops: the op before which each starts at the latest
// to be there in time, at `lead` times what it takes by the rate; -1: before the step.
// kAsEarlyAsFits gives -1 for all.
std::vector<int> latest_starts(const OpClock& clock, const std::vector<LinkCopy>& copies,
                               double rate, double lead);
// For copies to the host in the order of their ops: the op during which each is done, if it takes
// `lead` times what the rate says.
std::vector<int> expected_ends(const OpClock& clock, const std::vector<LinkCopy>& copies,
                               double rate, double lead);

}  // namespace hetmem::planner
