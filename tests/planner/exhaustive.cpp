#include "tests/planner/exhaustive.h"

#include <algorithm>
#include <limits>

#include "planner/actions.h"
#include "planner/offsets.h"
#include "planner/residency.h"
#include "planner/simulate.h"

namespace hetmem {
namespace {

constexpr int kLatenesses =
    3;  // how many ops the place of what is sent is left alone: none, 1, all

class Exhaustive {
 public:
  Exhaustive(const AccessTrace& trace, const TierBudgets& budgets, const CopyRates& rates)
      : trace_(trace), budgets_(budgets), rates_(rates) {
    resident_.assign(trace.chunks.size(), false);
  }

  double run() {
    choose(0);
    return best_;
  }

 private:
  // For chunk c: it stays, or any of the ways to hold it between uses.
  void choose(size_t c) {
    if (c == trace_.chunks.size()) {
      for (late_ = 0; late_ < kLatenesses; ++late_) evaluate();
      return;
    }
    const size_t before = stays_.size();
    resident_[c] = true;
    if (trace_.chunks[c].trained()) add_gradient(c, true);
    choose(c + 1);
    stays_.resize(before);
    resident_[c] = false;
    const size_t gaps = trace_.chunks[c].reads.size() - 1;
    for (unsigned held = 0; held < (1u << gaps); ++held) {
      if (add_stays(c, held)) choose(c + 1);
      stays_.resize(before);
    }
  }

  void add_gradient(size_t c, bool resident) {
    const TraceChunk& chunk = trace_.chunks[c];
    Residency stay;
    stay.chunk = static_cast<int>(c);
    stay.gradient = true;
    stay.send = !resident;
    stay.start = stay.first_use = chunk.writes[0].first;
    stay.last_use = resident ? trace_.ops() : chunk.writes[0].last;
    stay.bytes = chunk.gradient_bytes;
    stays_.push_back(stay);
  }

  bool add_stays(size_t c, unsigned held) {
    const TraceChunk& chunk = trace_.chunks[c];
    for (size_t i = 0; i < chunk.reads.size(); ++i) {
      if (i > 0 && (held >> (i - 1) & 1) != 0) {
        stays_.back().last_use = chunk.reads[i];
        continue;
      }
      Residency stay;
      stay.chunk = static_cast<int>(c);
      stay.weights = stay.fetch = true;
      stay.start = stay.first_use = stay.last_use = chunk.reads[i];
      stay.bytes = chunk.weight_bytes;
      stays_.push_back(stay);
    }
    if (!chunk.trained()) return true;
    if (!chunk.in_place) {
      add_gradient(c, false);
      return true;
    }
    Residency& last = stays_.back();
    if (last.first_use > chunk.writes[0].first) return false;  // the gradient is there before
    last.gradient = last.send = true;
    last.last_use = std::max(last.last_use, chunk.writes[0].last);
    return true;
  }

  void evaluate() {
    Plan plan;
    plan.resident = resident_;
    plan.residencies = stays_;
    const int64_t limit = budgets_.device - trace_.fixed_bytes - resident_bytes(trace_, resident_);
    if (limit < 0 || host_bytes(trace_, resident_) > budgets_.host) return;
    constexpr std::array<int, kLatenesses> kLate{0, 1, 1 << 20};
    for (Residency& stay : plan.residencies) {
      stay.end = std::min(trace_.ops(), stay.last_use + (stay.send ? kLate[late_] : 0));
    }
    if (!start_early(plan, limit)) return;
    std::vector<PlannedInterval> intervals;
    for (const TraceBuffer& buffer : trace_.buffers) {
      intervals.push_back(planner::interval_of(buffer));
    }
    for (const Residency& stay : plan.residencies) intervals.push_back(planner::interval_of(stay));
    const OffsetPlan offsets = assign_offsets(intervals);
    if (offsets.pool_bytes > limit) return;
    plan.buffer_offsets = offsets.offsets;
    for (size_t r = 0; r < plan.residencies.size(); ++r) {
      plan.residencies[r].offset = offsets.offsets[trace_.buffers.size() + r];
    }
    planner::make_actions(trace_, plan, true);
    best_ = std::min(best_, simulate(trace_, plan, rates_).seconds);
  }

  // In the order of use, each copy begins as early as there is room from then on.
  bool start_early(Plan& plan, int64_t limit) const {
    std::vector<int64_t> alive(static_cast<size_t>(trace_.ops()) + 1, 0);
    const auto add = [&](const PlannedInterval& interval) {
      for (int op = interval.first; op <= interval.last; ++op) {
        alive[static_cast<size_t>(op)] += rounded(interval.bytes);
      }
    };
    for (const TraceBuffer& buffer : trace_.buffers) add(planner::interval_of(buffer));
    for (const Residency& stay : plan.residencies) add(planner::interval_of(stay));
    for (const int64_t bytes : alive) {
      if (bytes > limit) return false;
    }
    std::vector<Residency*> order;
    for (Residency& stay : plan.residencies) {
      if (stay.fetch) order.push_back(&stay);
    }
    std::stable_sort(order.begin(), order.end(), [](const Residency* a, const Residency* b) {
      return a->first_use < b->first_use;
    });
    int earliest = -1;
    for (Residency* stay : order) {
      while (stay->start > earliest &&
             (stay->start == 0 ||
              alive[static_cast<size_t>(stay->start) - 1] + rounded(stay->bytes) <= limit)) {
        --stay->start;
        if (stay->start >= 0) alive[static_cast<size_t>(stay->start)] += rounded(stay->bytes);
      }
      earliest = stay->start;
    }
    return true;
  }

  static int64_t rounded(int64_t bytes) {
    return (bytes + kPlanAlignment - 1) / kPlanAlignment * kPlanAlignment;
  }

  const AccessTrace& trace_;
  const TierBudgets budgets_;
  const CopyRates rates_;
  std::vector<bool> resident_;
  std::vector<Residency> stays_;
  size_t late_ = 0;
  double best_ = std::numeric_limits<double>::infinity();
};

}  // namespace

double exhaustive_best_seconds(const AccessTrace& trace, const TierBudgets& budgets,
                               const CopyRates& rates) {
  return Exhaustive(trace, budgets, rates).run();
}

}  // namespace hetmem
