#include "planner/residency.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "planner/copy_times.h"

namespace hetmem::planner {
namespace {

// The stretches of consecutive uses during which one kind of contents of a chunk stays.
struct Stretch {
  int chunk = 0;
  bool weights = false;
  bool gradient = false;
  bool fetch = false;
  bool send = false;
  int start = 0;
  int first = 0;
  int last = 0;
  int end = 0;
  int64_t bytes = 0;
  size_t use = 0;  // its first one
};

class Chooser {
 public:
  Chooser(const AccessTrace& trace, const CopyRates& rates, const StayChoice& choice)
      : trace_(trace), rates_(rates), choice_(choice), update_(trace.ops()), clock_(trace) {}

  Stays run() {
    std::vector<Stretch> stretches = first_stretches();
    Stays stays;
    for (const TraceChunk& chunk : trace_.chunks) {
      stays.uses += chunk.reads.size() + chunk.writes.size();
    }
    lead_ = choice_.lead.before_holding;
    schedule(stretches);
    hold(stretches);
    lead_ = choice_.lead.last;
    schedule(stretches);
    for (const Stretch& s : stretches) {
      stays.residencies.push_back({s.chunk, s.weights, s.gradient, s.fetch, s.send, s.start,
                                   s.first, s.last, s.end, s.bytes, 0});
    }
    const std::vector<int64_t> alive = profile(stretches);
    stays.most_alive = *std::max_element(alive.begin(), alive.end());
    return stays;
  }

 private:
  // Every use on its own, but for what must stay.
  std::vector<Stretch> first_stretches() const {
    std::vector<Stretch> all;
    size_t use = 0;  // of the chunk's first one
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      const TraceChunk& chunk = trace_.chunks[c];
      const size_t first_use = use;
      use += chunk.reads.size() + chunk.writes.size();
      const bool resident = choice_.resident[c];
      const size_t from = all.size();
      for (size_t i = 0; i < chunk.reads.size() && !resident; ++i) {
        all.push_back({static_cast<int>(c), true, false, true, false, 0, chunk.reads[i],
                       chunk.reads[i], chunk.reads[i], chunk.weight_bytes, first_use + i});
      }
      if (!chunk.trained() || chunk.writes.empty()) continue;
      if (resident) {
        all.push_back({static_cast<int>(c), false, true, false, false, chunk.writes.front().first,
                       chunk.writes.front().first, update_, update_, chunk.gradient_bytes,
                       first_use + chunk.reads.size()});
        continue;
      }
      for (size_t i = 0; i < chunk.writes.size(); ++i) {
        const bool first = i == 0;
        const bool shared =
            chunk.in_place && all.size() > from && chunk.reads.back() >= chunk.writes[0].first;
        if (first && shared) {
          // The gradient goes on in the place of the weights: once its first tensor is there, the
          // weights of the others stay, too. Where all were read before, it needs no part of them.
          while (all.size() > from + 1 && all.back().first > chunk.writes[0].first) {
            const int last = all.back().last;
            all.pop_back();
            all.back().last = last;
          }
          Stretch& weights = all.back();
          weights.gradient = true;
          weights.send = true;
          weights.last = std::max(weights.last, chunk.writes[0].last);
          weights.end = weights.last;
          continue;
        }
        all.push_back({static_cast<int>(c), false, true, !first, true, 0, chunk.writes[i].first,
                       chunk.writes[i].last, chunk.writes[i].last, chunk.gradient_bytes,
                       first_use + chunk.reads.size() + i});
      }
    }
    return all;
  }

  // Starts of the copies to the device, and the ops by which what leaves is gone. Stretches that a
  // copy could not come between are joined.
  void schedule(std::vector<Stretch>& stretches) const {
    join(stretches, [&](const Stretch& a, const Stretch& b) { return b.first <= a.last + 1; });
    for (Stretch& s : stretches) {
      s.start = s.first;
      s.end = s.last;
    }
    std::vector<int64_t> alive = profile(stretches);
    if (choice_.lead.leaving > 0) drain(stretches, alive);
    if (lead_ > 0) start_earlier(stretches, alive);
    join(stretches, [&](const Stretch& a, const Stretch& b) { return b.start <= a.end + 1; });
  }

  // In the order of use, which is that on their link, copies start as early as they should and as
  // there is room from then on.
  void start_earlier(std::vector<Stretch>& stretches, std::vector<int64_t>& alive) const {
    std::vector<size_t> fetched;
    for (size_t i = 0; i < stretches.size(); ++i) {
      if (stretches[i].fetch) fetched.push_back(i);
    }
    std::stable_sort(fetched.begin(), fetched.end(),
                     [&](size_t a, size_t b) { return stretches[a].first < stretches[b].first; });
    std::vector<LinkCopy> copies;
    for (const size_t i : fetched) copies.push_back({stretches[i].bytes, stretches[i].first});
    const std::vector<int> wanted = latest_starts(clock_, copies, rates_.to_device, lead_);
    int before = -1;
    for (size_t i = 0; i < fetched.size(); ++i) {
      Stretch& s = stretches[fetched[i]];
      int earliest = std::max(wanted[i], before);
      if (fetched[i] > 0 && may_follow(stretches[fetched[i] - 1], s)) {
        earliest = std::max(earliest, stretches[fetched[i] - 1].end + 1);
      }
      const int64_t bytes = planned_bytes(s.bytes);
      while (s.start > earliest &&
             (s.start == 0 || alive[static_cast<size_t>(s.start) - 1] + bytes <= choice_.limit)) {
        --s.start;
        if (s.start >= 0) alive[static_cast<size_t>(s.start)] += bytes;
      }
      before = s.start;
    }
  }

  void drain(std::vector<Stretch>& stretches, std::vector<int64_t>& alive) const {
    std::vector<Stretch*> leaving;
    for (Stretch& s : stretches) {
      if (s.send) leaving.push_back(&s);
    }
    std::stable_sort(leaving.begin(), leaving.end(),
                     [](const Stretch* a, const Stretch* b) { return a->last < b->last; });
    std::vector<LinkCopy> copies;
    for (const Stretch* s : leaving) copies.push_back({s->bytes, s->last});
    const std::vector<int> ends =
        expected_ends(clock_, copies, rates_.to_host, choice_.lead.leaving);
    for (size_t i = 0; i < leaving.size(); ++i) {
      Stretch* s = leaving[i];
      const int64_t bytes = planned_bytes(s->bytes);
      while (s->end < ends[i] && alive[static_cast<size_t>(s->end) + 1] + bytes <= choice_.limit) {
        ++s->end;
        alive[static_cast<size_t>(s->end)] += bytes;
      }
    }
  }

  // Joins neighbouring stretches of one chunk and one kind of contents where `close` says so.
  template <typename Close>
  static void join(std::vector<Stretch>& stretches, const Close& close) {
    std::vector<Stretch> joined;
    for (const Stretch& s : stretches) {
      if (!joined.empty() && may_follow(joined.back(), s) && close(joined.back(), s)) {
        merge(joined.back(), s);
      } else {
        joined.push_back(s);
      }
    }
    stretches = std::move(joined);
  }

  static void merge(Stretch& a, const Stretch& b) {
    a.gradient = b.gradient || a.gradient;
    a.send = b.send || a.send;
    a.last = b.last;
    a.end = b.end;
  }

  std::vector<int64_t> profile(const std::vector<Stretch>& stretches) const {
    std::vector<int64_t> alive(static_cast<size_t>(update_) + 2, 0);
    const auto add = [&](const PlannedInterval& interval) {
      alive[static_cast<size_t>(interval.first)] += planned_bytes(interval.bytes);
      alive[static_cast<size_t>(interval.last) + 1] -= planned_bytes(interval.bytes);
    };
    for (const TraceBuffer& buffer : trace_.buffers) add(interval_of(buffer));
    for (const Stretch& s : stretches) add({s.bytes, std::max(0, s.start), s.end});
    std::partial_sum(alive.begin(), alive.end(), alive.begin());
    alive.pop_back();
    return alive;
  }

  // Holds chunks between uses where there is room. Each spares a copy (a gradient two) of as many
  // bytes as it takes: those that take them for the shortest time come first.
  void hold(std::vector<Stretch>& stretches) const {
    struct Gap {
      size_t before;
      double seconds;
    };
    std::vector<Gap> gaps;
    for (size_t i = 0; i + 1 < stretches.size(); ++i) {
      if (!may_follow(stretches[i], stretches[i + 1])) continue;
      const size_t use = stretches[i + 1].use;
      if (use < choice_.dropped.size() && choice_.dropped[use]) continue;
      const double seconds = clock_.begin(stretches[i + 1].first) - clock_.begin(stretches[i].last);
      gaps.push_back({i, stretches[i].gradient ? seconds / 2 : seconds});
    }
    std::stable_sort(gaps.begin(), gaps.end(),
                     [](const Gap& a, const Gap& b) { return a.seconds < b.seconds; });
    std::vector<int64_t> alive = profile(stretches);
    std::vector<bool> held(stretches.size(), false);
    for (const Gap& gap : gaps) {
      const Stretch& a = stretches[gap.before];
      const Stretch& b = stretches[gap.before + 1];
      const int64_t bytes = planned_bytes(a.bytes);
      const auto first = alive.begin() + a.end + 1;
      const auto last = alive.begin() + std::max(b.start, a.end + 1);
      const bool room = std::all_of(
          first, last, [&](int64_t bytes_then) { return bytes_then + bytes <= choice_.limit; });
      if (!room) continue;
      std::for_each(first, last, [&](int64_t& bytes_then) { bytes_then += bytes; });
      held[gap.before] = true;
    }
    std::vector<Stretch> joined;
    bool follows = false;
    for (size_t i = 0; i < stretches.size(); ++i) {
      if (follows) {
        merge(joined.back(), stretches[i]);
      } else {
        joined.push_back(stretches[i]);
      }
      follows = held[i];
    }
    stretches = std::move(joined);
  }

  const AccessTrace& trace_;
  const CopyRates& rates_;
  const StayChoice& choice_;
  double lead_ = 0;
  int update_;
  OpClock clock_;
};

}  // namespace

Stays choose_stays(const AccessTrace& trace, const CopyRates& rates, const StayChoice& choice) {
  HETMEM_ASSERT(choice.resident.size() == trace.chunks.size());
  return Chooser(trace, rates, choice).run();
}

PlannedInterval interval_of(const Residency& residency) {
  return {residency.bytes, std::max(0, residency.start), residency.end};
}

PlannedInterval interval_of(const TraceBuffer& buffer) {
  return {buffer.bytes, buffer.first, buffer.last};
}

}  // namespace hetmem::planner
