#include "planner/offsets.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <tuple>

#include "core/error.h"

namespace hetmem {
namespace {

struct Placed {
  int64_t offset;
  int64_t end;
  int first;
  int last;
};

int64_t most_alive(const std::vector<PlannedInterval>& intervals) {
  std::vector<std::pair<int, int64_t>> changes;
  for (const PlannedInterval& interval : intervals) {
    changes.emplace_back(interval.first, planned_bytes(interval.bytes));
    changes.emplace_back(interval.last + 1, -planned_bytes(interval.bytes));
  }
  std::sort(changes.begin(), changes.end());  // at one step, what ends is taken off first
  int64_t alive = 0;
  int64_t most = 0;
  for (const auto& [step, change] : changes) {
    alive += change;
    most = std::max(most, alive);
  }
  return most;
}

// The lowest (or the tightest) gap between those already placed, sorted by offset, that overlap in
// time.
int64_t find_gap(const std::vector<Placed>& placed, const PlannedInterval& interval, int64_t bytes,
                 bool best_fit) {
  int64_t at = 0;
  int64_t best = -1;
  int64_t best_slack = 0;
  for (const Placed& other : placed) {
    // Masks, for no branch: whether two overlap in time is as good as random.
    const bool at_once = (other.last >= interval.first) & (other.first <= interval.last);
    const int64_t mask = -int64_t{at_once};
    const int64_t slack = (other.offset - at - bytes) | ~mask;
    if (slack >= 0) {
      if (!best_fit) return at;
      if (best < 0 || slack < best_slack) {
        best = at;
        best_slack = slack;
      }
    }
    at = std::max(at, other.end & mask);
  }
  return best >= 0 ? best : at;
}

// What is placed, all of it in one list, which is put in order when it is looked at.
class PlacedList {
 public:
  void add(const Placed& entry) { added_.push_back(entry); }
  // By offset; others may be among those that overlap with the interval in time.
  const std::vector<Placed>& beside(const PlannedInterval&) {
    const auto is_lower = [](const Placed& a, const Placed& b) { return a.offset < b.offset; };
    if (added_.size() == 1) {
      const Placed& entry = added_.front();
      placed_.insert(std::upper_bound(placed_.begin(), placed_.end(), entry, is_lower), entry);
    } else if (!added_.empty()) {
      std::stable_sort(added_.begin(), added_.end(), is_lower);
      const auto before = static_cast<int64_t>(placed_.size());
      placed_.insert(placed_.end(), added_.begin(), added_.end());
      std::inplace_merge(placed_.begin(), placed_.begin() + before, placed_.end(), is_lower);
    }
    added_.clear();
    return placed_;
  }

 private:
  std::vector<Placed> placed_;
  std::vector<Placed> added_;
};

// The same of many, of which few are there at a time: a list for each window of time, at several
// widths. Windows are two units long and begin at each unit, so that what takes no longer than a
// unit lies in one of them.
class PlacedByTime {
 public:
  explicit PlacedByTime(const std::vector<PlannedInterval>& intervals) {
    int last = 0;
    for (const PlannedInterval& interval : intervals) {
      begin_ = std::min(begin_, interval.first);
      last = std::max(last, interval.last);
    }
    const int64_t steps = int64_t{last} - begin_ + 1;
    constexpr int64_t kLeastUnit = 192;
    for (int64_t unit = kLeastUnit; levels_.empty() || levels_.back().unit < steps; unit *= 4) {
      levels_.push_back({unit, std::vector<PlacedList>(static_cast<size_t>(steps / unit + 1))});
    }
  }
  void add(const Placed& entry) {
    for (Level& level : levels_) {
      const int64_t first = std::max<int64_t>(0, (int64_t{entry.first} - begin_) / level.unit - 1);
      const int64_t last = (int64_t{entry.last} - begin_) / level.unit;
      for (int64_t window = first; window <= last; ++window) {
        level.windows[static_cast<size_t>(window)].add(entry);
      }
    }
  }
  const std::vector<Placed>& beside(const PlannedInterval& interval) {
    const int64_t length = int64_t{interval.last} - interval.first + 1;
    const auto level = std::find_if(levels_.begin(), levels_.end(),
                                    [&](const Level& at) { return at.unit >= length; });
    const int64_t window = (int64_t{interval.first} - begin_) / level->unit;
    return level->windows[static_cast<size_t>(window)].beside(interval);
  }

 private:
  struct Level {
    int64_t unit;
    std::vector<PlacedList> windows;
  };
  int begin_ = 0;
  std::vector<Level> levels_;
};

// Of more intervals than this the portfolio is smaller: each order takes the longer.
constexpr size_t kMany = 2000;
// A pool larger than the most that is alive by this part is good.
constexpr int64_t kGoodPart = 200;

constexpr int64_t kAny = std::numeric_limits<int64_t>::max();

// Ends early where the pool comes to `too_much`.
template <typename AllPlaced>
OffsetPlan place_among(const std::vector<PlannedInterval>& intervals,
                       const std::vector<size_t>& order, bool best_fit, int64_t too_much,
                       AllPlaced placed) {
  OffsetPlan plan;
  plan.offsets.assign(intervals.size(), 0);
  for (const size_t index : order) {
    const PlannedInterval& interval = intervals[index];
    const int64_t bytes = planned_bytes(interval.bytes);
    const int64_t offset = find_gap(placed.beside(interval), interval, bytes, best_fit);
    plan.offsets[index] = offset;
    plan.pool_bytes = std::max(plan.pool_bytes, offset + bytes);
    if (plan.pool_bytes >= too_much) break;
    placed.add({offset, offset + bytes, interval.first, interval.last});
  }
  return plan;
}

OffsetPlan place(const std::vector<PlannedInterval>& intervals, const std::vector<size_t>& order,
                 bool best_fit, int64_t too_much = kAny) {
  return intervals.size() > kMany
             ? place_among(intervals, order, best_fit, too_much, PlacedByTime(intervals))
             : place_among(intervals, order, best_fit, too_much, PlacedList());
}

// Packs again and again with those first that stick out on top: what is placed early lies low.
void improve(const std::vector<PlannedInterval>& intervals, std::vector<size_t> order,
             int64_t wanted, OffsetPlan& best) {
  constexpr int kRounds = 6;
  if (intervals.size() > kMany) return;
  OffsetPlan now = best;
  for (int round = 0; round < kRounds; ++round) {
    if (best.pool_bytes <= wanted) return;
    std::stable_partition(order.begin(), order.end(), [&](size_t i) {
      return now.offsets[i] + planned_bytes(intervals[i].bytes) == now.pool_bytes;
    });
    now = place(intervals, order, round % 2 == 1);
    if (now.pool_bytes < best.pool_bytes) best = now;
  }
}

}  // namespace

OffsetPlan assign_offsets(const std::vector<PlannedInterval>& intervals, int64_t wanted) {
  for (const PlannedInterval& interval : intervals) {
    HETMEM_ASSERT(interval.bytes >= 0 && interval.first <= interval.last);
  }
  const int64_t bound = most_alive(intervals);
  // Less than good where that is wanted; the best of the portfolio where there is time for it.
  const int64_t good = bound + bound / kGoodPart;
  const int64_t target = wanted > 0 ? std::clamp(wanted, bound, good) : good;
  const int64_t enough = intervals.size() > kMany ? target : bound;
  const auto duration = [&](size_t i) -> int64_t {
    return int64_t{intervals[i].last} - intervals[i].first + 1;
  };
  // What comes first in each order; ties go by start, then by index.
  const auto keys = std::to_array<int64_t (*)(int64_t bytes, int64_t duration, int64_t start)>(
      {[](int64_t, int64_t length, int64_t) { return -length; },
       [](int64_t bytes, int64_t, int64_t) { return -bytes; },
       [](int64_t bytes, int64_t length, int64_t) { return -bytes * length; },
       [](int64_t, int64_t, int64_t start) { return start; }});
  OffsetPlan best;
  std::vector<size_t> best_order;
  best.pool_bytes = kAny;
  for (size_t k = 0; k < (intervals.size() > kMany ? keys.size() / 2 : keys.size()); ++k) {
    const auto key = keys[k];
    std::vector<size_t> order(intervals.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const auto rank = [&](size_t i) {
        return std::tuple(key(intervals[i].bytes, duration(i), intervals[i].first),
                          -intervals[i].bytes, intervals[i].first, i);
      };
      return rank(a) < rank(b);
    });
    for (const bool best_fit : {false, true}) {
      OffsetPlan plan = place(intervals, order, best_fit, best.pool_bytes);
      if (plan.pool_bytes < best.pool_bytes) {
        best = std::move(plan);
        best_order = order;
      }
      if (best.pool_bytes <= enough) break;
    }
    if (best.pool_bytes <= enough) break;
  }
  improve(intervals, std::move(best_order), target, best);
  best.lower_bound = bound;
  return best;
}

}  // namespace hetmem
