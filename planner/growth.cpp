#include "planner/growth.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "planner/offsets.h"

namespace hetmem::planner {
namespace {

// Memory that something has for some time.
struct Box {
  int64_t begin = 0;  // bytes in the pool
  int64_t end = 0;
  int first = 0;  // ops, both included
  int last = 0;
  int gone = 0;  // the op by which a copy from it to the host should be done
};

class Grower {
 public:
  Grower(const AccessTrace& trace, const CopyRates& rates, const OpClock& clock, const Lead& lead,
         int64_t limit, Plan& plan)
      : trace_(trace), rates_(rates), clock_(clock), lead_(lead), limit_(limit), plan_(plan) {
    for (size_t i = 0; i < trace.buffers.size(); ++i) {
      boxes_.push_back(box_of(interval_of(trace.buffers[i]), plan.buffer_offsets[i]));
    }
    first_ = boxes_.size();
    for (const Residency& stay : plan.residencies) {
      boxes_.push_back(box_of(interval_of(stay), stay.offset));
    }
  }

  void run() {
    hold();
    expect_ends();
    const bool leave_first = lead_.before_holding > 0;
    if (leave_first) drain();
    if (lead_.last > 0) start_earlier();
    if (!leave_first) drain();
    for (size_t r = 0; r < plan_.residencies.size(); ++r) {
      plan_.pool_bytes = std::max(plan_.pool_bytes, boxes_[first_ + r].end);
    }
  }

 private:
  static Box box_of(const PlannedInterval& interval, int64_t offset) {
    return {offset, offset + planned_bytes(interval.bytes), interval.first, interval.last,
            interval.last};
  }

  static size_t index(int i) { return static_cast<size_t>(i); }

  // A place of so many bytes that nothing but the residencies a and b has during [first, last], or
  // -1: that of either, else the lowest. `first` may be -1, before the step.
  int64_t place_for(size_t a, size_t b, int first, int last, bool when_gone = false) const {
    const Box& from = boxes_[first_ + a];
    const Box& to = boxes_[first_ + b];
    const int64_t bytes = std::max(from.end - from.begin, to.end - to.begin);
    bool from_free = from.begin + bytes <= limit_;
    bool to_free = to.begin + bytes <= limit_;
    int64_t lowest = -1;
    int64_t at = 0;
    for (const size_t i : by_place_) {
      const Box& other = boxes_[i];
      const int other_last = when_gone ? other.gone : other.last;
      const bool at_once = other_last >= first && other.first <= last;
      // What begins before the step would wait for gradients that the optimizer still needs.
      if (!at_once && (first >= 0 || other.last < trace_.ops())) continue;
      if (i == first_ + a || i == first_ + b) continue;
      if (lowest < 0 && other.begin - at >= bytes) lowest = at;
      at = std::max(at, other.end);
      from_free &= other.end <= from.begin || from.begin + bytes <= other.begin;
      to_free &= other.end <= to.begin || to.begin + bytes <= other.begin;
      if (lowest >= 0 && !from_free && !to_free) break;
    }
    if (from_free) return from.begin;
    if (to_free) return to.begin;
    if (lowest < 0) lowest = at;
    return lowest + bytes <= limit_ ? lowest : -1;
  }

  // Puts a box elsewhere and keeps their order.
  void move_box(size_t i, const Box& to) {
    take_out(i);
    boxes_[i] = to;
    const auto after =
        std::upper_bound(by_place_.begin(), by_place_.end(), i,
                         [&](size_t x, size_t y) { return boxes_[x].begin < boxes_[y].begin; });
    by_place_.insert(after, i);
  }

  void take_out(size_t i) { by_place_.erase(std::find(by_place_.begin(), by_place_.end(), i)); }

  void sort_boxes() {
    by_place_.resize(boxes_.size());
    std::iota(by_place_.begin(), by_place_.end(), size_t{0});
    std::stable_sort(by_place_.begin(), by_place_.end(),
                     [&](size_t x, size_t y) { return boxes_[x].begin < boxes_[y].begin; });
  }

  // Chunks stay between uses, those first that take the place for the shortest time for each copy
  // that is spared (of a gradient there are two).
  void hold() {
    struct Gap {
      size_t after;
      double seconds;
    };
    std::vector<Residency>& stays = plan_.residencies;
    sort_boxes();
    std::vector<bool> gone(stays.size(), false);
    std::vector<Gap> gaps;
    for (size_t r = 0; r + 1 < stays.size(); ++r) {
      if (!may_follow(stays[r], stays[r + 1])) continue;
      const double seconds = clock_.begin(stays[r + 1].first_use) - clock_.begin(stays[r].last_use);
      gaps.push_back({r, stays[r].gradient ? seconds / 2 : seconds});
    }
    std::stable_sort(gaps.begin(), gaps.end(),
                     [](const Gap& a, const Gap& b) { return a.seconds < b.seconds; });
    std::vector<size_t> head(stays.size());  // the first of those that a residency is one with
    std::iota(head.begin(), head.end(), size_t{0});
    for (const Gap& gap : gaps) {
      size_t a = gap.after;
      while (head[a] != a) a = head[a];
      const size_t b = gap.after + 1;
      const int64_t at = place_for(a, b, stays[a].start, boxes_[first_ + b].last);
      if (at < 0) continue;
      Residency& stay = stays[a];
      stay.gradient |= stays[b].gradient;
      stay.send |= stays[b].send;
      stay.last_use = stays[b].last_use;
      stay.end = stays[b].end;
      stay.offset = at;
      move_box(first_ + a, box_of(interval_of(stay), at));
      take_out(first_ + b);
      gone[b] = true;
      head[b] = a;
    }
    size_t kept = 0;
    for (size_t r = 0; r < stays.size(); ++r) {
      if (gone[r]) continue;
      stays[kept] = stays[r];
      boxes_[first_ + kept++] = boxes_[first_ + r];
    }
    stays.resize(kept);
    boxes_.resize(first_ + kept);
    sort_boxes();
  }

  // Moves the start of a residency to `wanted` or as near as there is a place for it: where it need
  // not wait for a copy to the host, if there is one.
  void move_start(size_t r, int wanted) {
    Residency& stay = plan_.residencies[r];
    const int last = boxes_[first_ + r].last;
    for (const bool when_gone : {true, false}) {
      stretch(r, stay.start - wanted, [&](int move) {
        stay.start -= move;
        const int64_t place = place_for(r, r, stay.start, last, when_gone);
        if (place < 0) stay.start += move;
        return place;
      });
    }
  }

  void move_end(size_t r, int wanted) {
    Residency& stay = plan_.residencies[r];
    const int first = boxes_[first_ + r].first;
    stretch(r, wanted - stay.end, [&](int move) {
      stay.end += move;
      const int64_t place = place_for(r, r, first, stay.end);
      if (place < 0) stay.end -= move;
      return place;
    });
  }

  // Moves by as much of `most` as there is a place for; try_move gives it, or -1. After some tries
  // what there is will do.
  template <typename TryMove>
  void stretch(size_t r, int most, const TryMove& try_move) {
    Residency& stay = plan_.residencies[r];
    constexpr int kTries = 10;
    for (int tries = kTries; most > 0 && tries > 0; --tries) {
      int move = most;
      int64_t place = try_move(move);
      for (; place < 0 && move > 1 && tries > 0; --tries) {
        move /= 2;
        place = try_move(move);
      }
      if (place < 0) return;
      most = move == most ? 0 : move - 1;
      stay.offset = place;
      Box box = box_of(interval_of(stay), place);
      box.gone = std::max(boxes_[first_ + r].gone, box.last);
      move_box(first_ + r, box);
    }
  }

  // The residency of the same chunk after (or before) one, or -1.
  int neighbour(size_t r, int direction) const {
    const int other = static_cast<int>(r) + direction;
    if (other < 0 || other >= static_cast<int>(plan_.residencies.size())) return -1;
    const auto same = [&](size_t i) { return plan_.residencies[i].chunk; };
    return same(static_cast<size_t>(other)) == same(r) ? other : -1;
  }

  // Of what leaves, in the order in which it does: when it is gone at `lead` times the rate.
  std::vector<std::pair<size_t, int>> ends_of_sends(double lead) const {
    std::vector<size_t> leaving;
    for (size_t r = 0; r < plan_.residencies.size(); ++r) {
      if (plan_.residencies[r].send) leaving.push_back(r);
    }
    const auto last_use = [&](size_t r) { return plan_.residencies[r].last_use; };
    std::stable_sort(leaving.begin(), leaving.end(),
                     [&](size_t a, size_t b) { return last_use(a) < last_use(b); });
    std::vector<LinkCopy> copies;
    for (const size_t r : leaving) copies.push_back({plan_.residencies[r].bytes, last_use(r)});
    const std::vector<int> ends = expected_ends(clock_, copies, rates_.to_host, lead);
    std::vector<std::pair<size_t, int>> all;
    for (size_t i = 0; i < leaving.size(); ++i) all.emplace_back(leaving[i], ends[i]);
    return all;
  }

  void expect_ends() {
    for (const auto& [r, end] : ends_of_sends(1)) {
      Box& box = boxes_[first_ + r];
      box.gone = std::max(box.last, end);
    }
  }

  void drain() {
    if (lead_.leaving <= 0) return;
    for (const auto& [r, end] : ends_of_sends(lead_.leaving)) {
      const int next = neighbour(r, 1);
      const int last = next < 0 ? trace_.ops() : plan_.residencies[index(next)].start - 1;
      move_end(r, std::min(end, last));
    }
  }

  void start_earlier() {
    std::vector<size_t> fetched;
    for (size_t r = 0; r < plan_.residencies.size(); ++r) {
      if (plan_.residencies[r].fetch) fetched.push_back(r);
    }
    const auto first_use = [&](size_t r) { return plan_.residencies[r].first_use; };
    std::stable_sort(fetched.begin(), fetched.end(),
                     [&](size_t a, size_t b) { return first_use(a) < first_use(b); });
    std::vector<LinkCopy> copies;
    for (const size_t r : fetched) copies.push_back({plan_.residencies[r].bytes, first_use(r)});
    const std::vector<int> starts = latest_starts(clock_, copies, rates_.to_device, lead_.last);
    int before = -1;
    for (size_t i = 0; i < fetched.size(); ++i) {
      const int other = neighbour(fetched[i], -1);
      const int after = other < 0 ? -1 : plan_.residencies[index(other)].end + 1;
      move_start(fetched[i], std::max({starts[i], before, after}));
      before = plan_.residencies[fetched[i]].start;
    }
  }

  const AccessTrace& trace_;
  const CopyRates& rates_;
  const OpClock& clock_;
  const Lead& lead_;
  const int64_t limit_;
  Plan& plan_;
  std::vector<Box> boxes_;        // of buffers, then of residencies
  std::vector<size_t> by_place_;  // boxes, by where they begin
  size_t first_ = 0;              // box of a residency
};

}  // namespace

void grow(const AccessTrace& trace, const CopyRates& rates, const OpClock& clock, const Lead& lead,
          int64_t pool_limit, Plan& plan) {
  Grower(trace, rates, clock, lead, pool_limit, plan).run();
}

}  // namespace hetmem::planner
