#include "planner/copy_times.h"

#include <algorithm>

namespace hetmem::planner {
namespace {

double seconds_of(const LinkCopy& copy, double rate) {
  return static_cast<double>(copy.bytes) / std::max(1.0, rate);
}

}  // namespace

OpClock::OpClock(const AccessTrace& trace) {
  double now = 0;
  for (const double seconds : trace.op_seconds) {
    begin_.push_back(now);
    now += seconds;
  }
  begin_.push_back(now);
}

int OpClock::op_at(double time) const {
  if (time < 0) return -1;
  const auto after = std::upper_bound(begin_.begin(), begin_.end(), time);
  return static_cast<int>(after - begin_.begin()) - 1;
}

std::vector<int> latest_starts(const OpClock& clock, const std::vector<LinkCopy>& copies,
                               double rate, double lead) {
  std::vector<int> starts(copies.size(), -1);
  if (lead == kAsEarlyAsFits) return starts;
  double free = clock.begin(clock.ops());
  for (size_t i = copies.size(); i-- > 0;) {
    free = std::min(clock.begin(copies[i].op), free) - lead * seconds_of(copies[i], rate);
    starts[i] = std::min(copies[i].op, clock.op_at(free));
  }
  return starts;
}

std::vector<int> expected_ends(const OpClock& clock, const std::vector<LinkCopy>& copies,
                               double rate, double lead) {
  std::vector<int> ends;
  double free = 0;
  for (const LinkCopy& copy : copies) {
    free = std::max(free, clock.begin(copy.op + 1)) + lead * seconds_of(copy, rate);
    ends.push_back(std::min(clock.ops(), clock.op_at(free)));
  }
  return ends;
}

}  // namespace hetmem::planner
