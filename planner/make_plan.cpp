#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "core/error.h"
#include "planner/actions.h"
#include "planner/growth.h"
#include "planner/host_steps.h"
#include "planner/memo.h"
#include "planner/offsets.h"
#include "planner/plan.h"
#include "planner/residency.h"
#include "planner/simulate.h"
#include "planner/step_bound.h"

namespace hetmem {
namespace {

using planner::Lead;
using planner::StayChoice;
using planner::Stays;

constexpr std::array<Lead, 8> kLeads{{{1.0, planner::kAsEarlyAsFits, 1.0},
                                      {0.0, planner::kAsEarlyAsFits, 0.0},
                                      {0.0, planner::kAsEarlyAsFits, 1.0},
                                      {0.0, planner::kAsEarlyAsFits, planner::kAsEarlyAsFits},
                                      {2.0, 2.0, 2.0},
                                      {1.0, 1.0, 1.0},
                                      {0.4, 0.4, 0.4},
                                      {0.0, 0.0, 0.0}}};
// Shares of the chunks that could stay which are tried.
constexpr std::array<double, 5> kShares{1.0, 0.75, 0.5, 0.25, 0.0};
// Shares of the host's spare memory that early steps may take.
constexpr std::array<double, 4> kSpareShares{0.0, 0.25, 0.5, 1.0};
constexpr Lead kOnDemand{0.0, 0.0, 0.0};
constexpr int kOrderRounds = 3;
constexpr int kPackingTries = 7;
// Of steps with more chunks and buffers than this fewer plans are tried: each takes the longer.
constexpr size_t kLarge = 1500;
// Plans that the improvement by single changes may try: as many as this by the size of a step,
// which takes no longer than the choice before it.
constexpr int kImprovingWork = 20000;
constexpr int kMostImprovingTries = 1000;
// The same of plans that grow.
constexpr double kGrowingWork = 2e7;
constexpr double kMostGrown = 40;

// Small chunks that are needed all the time stay first, then those of the first ops: their
// gradients come last and their weights are needed first.
std::vector<size_t> order_of_staying(const AccessTrace& trace) {
  std::vector<size_t> order(trace.chunks.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto first_read = [&](size_t c) {
    return trace.chunks[c].reads.empty() ? 0 : trace.chunks[c].reads.front();
  };
  int64_t largest = 0;
  for (const TraceChunk& chunk : trace.chunks) largest = std::max(largest, chunk.weight_bytes);
  constexpr int64_t kSmall = 32;  // that part of the largest
  const auto small = [&](size_t c) { return trace.chunks[c].weight_bytes * kSmall < largest; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (small(a) != small(b)) return small(a);
    return first_read(a) < first_read(b);
  });
  return order;
}

class Search {
 public:
  Search(const AccessTrace& trace, const TierBudgets& budgets, const CopyRates& rates,
         const PlanOptions& options)
      : trace_(trace), budgets_(budgets), rates_(rates), options_(options) {
    order_ = order_of_staying(trace);
    // Evaluation beside a training step is not worth a long search either.
    large_ = trace.buffers.size() + trace.chunks.size() > kLarge || options.resident != nullptr;
    // Where both are on one processor, overlap can only fill the time that it waits.
    overlap_ = options.overlap && !trace.host_shares_compute;
  }

  Plan run() {
    const int count = static_cast<int>(order_.size());
    int fewest = 0;
    while (fewest < count && !has_room(trace_, first(fewest), budgets_)) ++fewest;
    if (options_.resident != nullptr) fewest = 0;
    Plan smallest = placed(draft({first(fewest), kOnDemand, 0, {}}), 0);  // whatever the budget is
    finish(smallest);
    const int64_t least = smallest.device.peak;
    smallest.smallest_device = least;
    smallest.fits = least <= budgets_.device;
    if (!smallest.fits) return explained(std::move(smallest));
    std::vector<Found> all{{{first(fewest), kOnDemand, 0, {}}, std::move(smallest)}};
    const std::vector<int> counts = counts_to_try(fewest);
    for (Candidate& candidate : candidates(counts)) {
      if (std::optional<Plan> plan = packed(candidate.choice)) {
        all.push_back({std::move(candidate.choice), std::move(*plan)});
      }
    }
    if (could_be_faster(all)) add_grown(counts, all);
    const bool search = could_be_faster(all);
    Plan best = search ? improved(std::move(all)).plan : fastest(all)->plan;
    best = overlapped(std::move(best));
    best.fits = true;
    best.smallest_device = least;
    return explained(std::move(best));
  }

 private:
  struct Candidate {
    StayChoice choice;
    double seconds = 0;
  };
  struct Found {
    StayChoice choice;
    Plan plan;
  };

  // Whether the fastest of them takes so much longer than its ops and the optimizer must that more
  // search may be worth its time.
  bool could_be_faster(const std::vector<Found>& all) const {
    constexpr double kWorth = 1.002;
    double least = std::accumulate(trace_.op_seconds.begin(), trace_.op_seconds.end(), 0.0);
    for (const TraceChunk& chunk : trace_.chunks) {
      if (!trace_.host_shares_compute) break;  // all of the host's steps could be beside
      least += std::min(chunk.device_step_seconds, chunk.host_step_seconds);
    }
    return fastest(all)->plan.step_seconds > kWorth * least;
  }

  static std::vector<Found>::const_iterator fastest(const std::vector<Found>& all) {
    return std::min_element(all.begin(), all.end(), faster);
  }
  static bool faster(const Found& a, const Found& b) {
    return a.plan.step_seconds < b.plan.step_seconds;
  }

  // The first `count` chunks of the order stay.
  std::vector<bool> first(int count) const {
    if (options_.resident != nullptr) return *options_.resident;
    std::vector<bool> resident(trace_.chunks.size(), false);
    for (int i = 0; i < count; ++i) resident[order_[static_cast<size_t>(i)]] = true;
    return resident;
  }

  int64_t pool_limit(const std::vector<bool>& resident) const {
    return budgets_.device - trace_.fixed_bytes - resident_bytes(trace_, resident);
  }

  bool could_fit(int count) const {
    const std::vector<bool> resident = first(count);
    const int64_t limit = pool_limit(resident);
    return limit >= 0 && resident_bytes(trace_, resident) <= options_.resident_limit &&
           planner::choose_stays(trace_, rates_, {resident, kOnDemand, 0, {}}).most_alive <= limit;
  }

  // How many chunks stay: from as many as could down to those that must.
  std::vector<int> counts_to_try(int fewest) const {
    int most = fewest;
    for (int step = static_cast<int>(order_.size()); step > 0; step /= 2) {
      while (most + step <= static_cast<int>(order_.size()) && could_fit(most + step)) most += step;
    }
    std::vector<int> counts;
    for (const double share : kShares) {
      counts.push_back(fewest + static_cast<int>(std::lround(share * (most - fewest))));
    }
    return counts;
  }

  // The most promising choices, by the simulator without offsets.
  std::vector<Candidate> candidates(const std::vector<int>& counts) const {
    std::vector<Candidate> found;
    for (const int count : counts) {
      const std::vector<bool> resident = first(count);
      for (const Lead& lead : kLeads) {
        if (!options_.prefetch && lead.last > 0) continue;
        Candidate candidate{{resident, lead, pool_limit(resident), {}}, 0};
        Plan plan = draft(candidate.choice);
        if (plan.pool_bytes > candidate.choice.limit) continue;
        order_host_steps(plan);
        planner::make_actions(trace_, plan, false);
        candidate.seconds = simulate(trace_, plan, rates_).seconds;
        found.push_back(std::move(candidate));
      }
      // Nothing moves, and the host could not step beside the device.
      const bool all = count == static_cast<int>(order_.size());
      if (all && trace_.host_shares_compute && !found.empty()) break;
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const Candidate& a, const Candidate& b) { return a.seconds < b.seconds; });
    const size_t most_packed = large_ ? 1 : 3;
    if (found.size() > most_packed) found.resize(most_packed);
    return found;
  }

  // Plans that grew where they are placed, for when what is counted alone does not pack well. So
  // many that their number times the square of their size, which each takes, has a bound.
  void add_grown(const std::vector<int>& counts, std::vector<Found>& all) const {
    const double size =
        static_cast<double>(trace_.buffers.size() + all.front().plan.residencies.size());
    int tries = large_ ? 2 : static_cast<int>(std::min(kGrowingWork / (size * size), kMostGrown));
    std::vector<Plan> bases;
    int before = -1;
    for (const int count : counts) {
      if (count == std::exchange(before, count)) continue;
      if (large_ && count != counts.front() && count != counts.back()) continue;
      const std::vector<bool> resident = first(count);
      const Plan& base = on_demand({resident, kOnDemand, 0, {}});
      if (base.pool_bytes <= pool_limit(resident)) bases.push_back(base);
    }
    for (const Lead& lead : kLeads) {
      if (!options_.prefetch && lead.last > 0) continue;
      for (const Plan& base : bases) {
        if (tries-- <= 0) return;
        all.push_back({{base.resident, kOnDemand, 0, {}}, grown(base, lead)});
      }
    }
  }

  // The best of several after single changes: another lead, a chunk that stays or no longer does, a
  // use before which a chunk is not held.
  Found improved(std::vector<Found> all) const {
    std::stable_sort(all.begin(), all.end(), faster);
    const int size = trace_.ops() + static_cast<int>(trace_.chunks.size());
    int tries = large_ ? 0 : std::min(kMostImprovingTries, kImprovingWork / size);
    for (Found& found : all) {
      bool better = tries > 0;
      while (better) better = improve(found, tries);
    }
    return *fastest(all);
  }

  // One round of changes; whether one of them was better.
  bool improve(Found& found, int& tries) const {
    bool better = false;
    const auto attempt = [&](const auto& change) {
      if (tries <= 0) return;
      StayChoice choice = found.choice;
      change(choice);
      choice.limit = pool_limit(choice.resident);
      if (!allowed(choice.resident)) return;
      if (planner::choose_stays(trace_, rates_, choice).most_alive > choice.limit) return;
      --tries;
      std::optional<Plan> plan = best_of(choice);
      if (!plan || plan->step_seconds >= found.plan.step_seconds) return;
      found = {std::move(choice), std::move(*plan)};
      better = true;
    };
    for (const Lead& lead : kLeads) {
      if (options_.prefetch) attempt([&](StayChoice& choice) { choice.lead = lead; });
    }
    const auto toggle = [](std::vector<bool>& bits, size_t at) { bits[at] = !bits[at]; };
    const size_t chunks = options_.resident == nullptr ? trace_.chunks.size() : 0;
    for (size_t c = 0; c < chunks; ++c) {
      attempt([&](StayChoice& choice) { toggle(choice.resident, c); });
      attempt([&](StayChoice& choice) {  // with another lead, too
        toggle(choice.resident, c);
        choice.dropped.clear();
        if (options_.prefetch) choice.lead = kLeads[c % 4];
      });
    }
    const size_t uses = planner::choose_stays(trace_, rates_, found.choice).uses;
    for (size_t use = 0; use < uses; ++use) {
      attempt([&](StayChoice& choice) {
        choice.dropped.resize(std::max(choice.dropped.size(), uses), false);
        toggle(choice.dropped, use);
      });
    }
    for (size_t a = 0; a < chunks; ++a) {
      for (size_t b = 0; b < a; ++b) {
        attempt([&](StayChoice& choice) {
          toggle(choice.resident, a);
          toggle(choice.resident, b);
        });
      }
    }
    return better;
  }

  // Whether the host holds what does not stay, and the device may hold what does.
  bool allowed(const std::vector<bool>& resident) const {
    return has_room(trace_, resident, budgets_) &&
           resident_bytes(trace_, resident) <= options_.resident_limit && pool_limit(resident) >= 0;
  }

  // Where the host has no room for what does not stay; empty: it has.
  std::vector<ChunkPlaces> places_of(const std::vector<bool>& resident) const {
    if (options_.places != nullptr) return *options_.places;
    const int64_t host = budgets_.room_of_host();
    if (budgets_.disk == 0 || host_bytes(trace_, resident) <= host) return {};
    return choose_homes(trace_, resident, host, true).chunks;
  }

  // Stays without offsets; pool_bytes is what is alive at most.
  Plan draft(const StayChoice& choice) const {
    Plan plan;
    plan.resident = choice.resident;
    plan.places = places_of(choice.resident);
    Stays stays = planner::choose_stays(trace_, rates_, choice);
    plan.residencies = std::move(stays.residencies);
    plan.pool_bytes = stays.most_alive;
    return plan;
  }

  // A plan within the budget: what the packing takes beyond it is taken off the limit.
  std::optional<Plan> packed(StayChoice choice) const {
    int64_t step = choice.limit / 200;
    for (int tries = 0; tries < (large_ ? kPackingTries / 2 : kPackingTries); ++tries) {
      const Plan& plan = described(choice);
      if (plan.device.peak <= budgets_.device) return plan;
      choice.limit -= std::max(plan.device.peak - budgets_.device, step);
      step *= 2;
    }
    return std::nullopt;
  }

  // Packed, or grown from what is there on demand: the faster one.
  std::optional<Plan> best_of(const StayChoice& choice) const {
    std::optional<Plan> plan = packed(choice);
    const int64_t limit = pool_limit(choice.resident);
    const Plan& base = on_demand(choice);
    if (base.pool_bytes > limit) return plan;
    const Plan& other = grown(base, choice.lead);
    if (!plan || other.step_seconds < plan->step_seconds) plan = other;
    return plan;
  }

  // Many choices come to the same stays, and so to the same plan.
  const Plan& described(const StayChoice& choice) const {
    const Plan stays = draft(choice);
    return described_.at(key_of(stays), [&] {
      Plan plan = placed(stays, pool_limit(choice.resident));
      finish(plan);
      return plan;
    });
  }

  static std::vector<int64_t> key_of(const Plan& plan) {
    std::vector<int64_t> key(plan.resident.begin(), plan.resident.end());
    for (const Residency& stay : plan.residencies) {
      key.insert(key.end(), {stay.chunk, stay.weights, stay.gradient, stay.fetch, stay.send,
                             stay.start, stay.first_use, stay.last_use, stay.end, stay.bytes});
    }
    return key;
  }

  // On demand, within the budget where that can be done.
  const Plan& on_demand(const StayChoice& choice) const {
    const Plan stays = draft({choice.resident, kOnDemand, 0, choice.dropped});
    return on_demand_.at(key_of(stays), [&] { return placed(stays, pool_limit(stays.resident)); });
  }

  const Plan& grown(const Plan& base, const Lead& lead) const {
    std::vector<int64_t> key = key_of(base);
    for (const double part : {lead.before_holding, lead.last, lead.leaving}) {
      key.push_back(std::bit_cast<int64_t>(part));
    }
    return grown_.at(std::move(key), [&] { return grow(base, lead); });
  }

  // Grown by the clock of the ops alone, then by that of the first result, in which they wait.
  Plan grow(const Plan& base, const Lead& lead) const {
    const int64_t limit = pool_limit(base.resident);
    Plan plan = base;
    planner::grow(trace_, rates_, planner::OpClock(trace_), lead, limit, plan);
    finish(plan);
    if (large_) return plan;
    Plan again = base;
    planner::grow(trace_, rates_, clock_of(plan), lead, limit, again);
    finish(again);
    return again.step_seconds < plan.step_seconds ? again : plan;
  }

  planner::OpClock clock_of(const Plan& plan) const {
    const Simulation simulation = simulate(trace_, plan, rates_);
    std::vector<double> begin;
    double end = 0;
    for (size_t i = 0; i < plan.actions.size(); ++i) {
      if (plan.actions[i].kind != Action::Kind::kOp) continue;
      begin.push_back(simulation.actions[i].begin);
      end = simulation.actions[i].end;
    }
    begin.push_back(end);
    return planner::OpClock(std::move(begin));
  }

  // Stays with offsets, in a pool of `wanted` bytes where that can be done.
  Plan placed(Plan plan, int64_t wanted) const {
    plan.group = trace_.group;
    std::vector<PlannedInterval> intervals;
    for (const TraceBuffer& buffer : trace_.buffers) {
      intervals.push_back(planner::interval_of(buffer));
    }
    for (const Residency& residency : plan.residencies) {
      intervals.push_back(planner::interval_of(residency));
    }
    const OffsetPlan offsets = assign_offsets(intervals, std::max<int64_t>(0, wanted));
    plan.pool_bytes = offsets.pool_bytes;
    plan.pool_lower_bound = offsets.lower_bound;
    const auto split = offsets.offsets.begin() + static_cast<int64_t>(trace_.buffers.size());
    plan.buffer_offsets.assign(offsets.offsets.begin(), split);
    for (size_t r = 0; r < plan.residencies.size(); ++r) {
      plan.residencies[r].offset = split[static_cast<int64_t>(r)];
    }
    return plan;
  }

  bool host_steps(const Plan& plan) const {
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      if (planner::on_host(trace_, plan, c)) return true;
    }
    return false;
  }

  int64_t spare(const Plan& plan) const {
    if (!options_.early) return 0;
    return budgets_.room_of_host() - homes_at(trace_, plan.resident, plan.places).host_bytes;
  }

  void order_host_steps(Plan& plan) const {
    plan.overlap = overlap_ && host_steps(plan);
    if (!plan.overlap) return;
    schedule_host_steps(trace_, planner::expected_times(trace_, plan, rates_), spare(plan), plan);
  }

  // The order of the host's steps by the times of a simulation instead of those of the ops, with as
  // little spare memory as makes hardly a difference; none of it where it makes none.
  Plan overlapped(Plan plan) const {
    if (!options_.overlap || !host_steps(plan)) return plan;
    constexpr double kWorth = 1.002;
    std::vector<Plan> all;
    int64_t before = -1;
    for (const double share : kSpareShares) {
      const auto room = static_cast<int64_t>(share * static_cast<double>(spare(plan)));
      if (room == std::exchange(before, room)) continue;  // the same plans again
      Plan next = plan;
      next.overlap = true;
      for (int round = 0; round < kOrderRounds; ++round) {
        const planner::HostTimes times =
            planner::times_of(trace_, next, simulate(trace_, next, rates_));
        schedule_host_steps(trace_, times, room, next);
        complete(next);
        all.push_back(next);
      }
    }
    if (options_.always) return all.back();
    all.push_back(plan);
    double best = plan.step_seconds;
    for (const Plan& next : all) best = std::min(best, next.step_seconds);
    if (!plan.overlap && plan.step_seconds <= kWorth * best) return plan;
    return *std::find_if(all.begin(), all.end(),
                         [&](const Plan& next) { return next.step_seconds <= kWorth * best; });
  }

  void finish(Plan& plan) const {
    order_host_steps(plan);
    complete(plan);
  }

  void complete(Plan& plan) const {
    planner::make_actions(trace_, plan, true);
    predict(plan);
    fill_tiers(plan);
  }

  void predict(Plan& plan) const {
    const Simulation simulation = simulate(trace_, plan, rates_);
    plan.step_seconds = simulation.seconds;
    plan.exposed_seconds = simulation.exposed_seconds;
    plan.traffic = simulation.traffic;
  }

  Plan explained(Plan plan) const {
    const planner::StepBound bound = planner::step_bound(trace_, plan, rates_);
    plan.lower_bound_seconds = bound.seconds;
    plan.limited_by = bound.limited_by;
    return plan;
  }

  // What is alive at the fullest op, by kind; what fragments leave unused counts as temporary.
  BytesByKind pool_by_kind(const Plan& plan) const {
    std::vector<std::pair<PlannedInterval, MemoryKind>> all;
    for (const TraceBuffer& buffer : trace_.buffers) {
      all.emplace_back(planner::interval_of(buffer), buffer.kind);
    }
    for (const Residency& residency : plan.residencies) {
      all.emplace_back(planner::interval_of(residency),
                       residency.weights ? MemoryKind::kWeights : MemoryKind::kGradients);
    }
    std::vector<int64_t> alive(static_cast<size_t>(trace_.ops()) + 2, 0);
    for (const auto& [interval, kind] : all) {
      alive[static_cast<size_t>(interval.first)] += interval.bytes;
      alive[static_cast<size_t>(interval.last) + 1] -= interval.bytes;
    }
    int64_t now = 0;
    for (int64_t& bytes : alive) bytes = now += bytes;
    const int fullest =
        static_cast<int>(std::max_element(alive.begin(), alive.end()) - alive.begin());
    BytesByKind bytes{};
    for (const auto& [interval, kind] : all) {
      if (interval.first > fullest || interval.last < fullest) continue;
      bytes[static_cast<size_t>(kind)] += interval.bytes;
    }
    bytes[static_cast<size_t>(MemoryKind::kActivationsTemporary)] += plan.pool_bytes - total(bytes);
    return bytes;
  }

  void fill_tiers(Plan& plan) const {
    plan.device.budget = budgets_.device;
    plan.host.budget = budgets_.host;
    plan.disk.budget = budgets_.disk;
    plan.pool_by_kind = pool_by_kind(plan);
    plan.device.by_kind = plan.pool_by_kind;
    plan.host.by_kind = {};
    plan.disk.by_kind = {};
    const auto add = [](BytesByKind& bytes, MemoryKind kind, int64_t more) {
      bytes[static_cast<size_t>(kind)] += more;
    };
    add(plan.device.by_kind, MemoryKind::kStaging, trace_.fixed_bytes);
    add(plan.host.by_kind, MemoryKind::kStaging, budgets_.staging_bytes());
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      const TraceChunk& chunk = trace_.chunks[c];
      BytesByKind& memory = plan.resident[c] ? plan.device.by_kind : plan.host.by_kind;
      for (const HomePart& part : parts_of(chunk, plan.places_of(c))) {
        if (plan.resident[c] && part.kind == MemoryKind::kGradients) continue;
        add(part.on_disk ? plan.disk.by_kind : memory, part.kind, part.bytes);
      }
      if (plan.early.empty() || !plan.early[c]) continue;
      add(memory, MemoryKind::kWeights, chunk.weight_bytes);
      add(memory, MemoryKind::kOptimizer, chunk.optimizer_bytes);
    }
    plan.device.peak = total(plan.device.by_kind);
    plan.host.peak = total(plan.host.by_kind);
    plan.disk.peak = total(plan.disk.by_kind);
  }

  const AccessTrace& trace_;
  const TierBudgets budgets_;
  const CopyRates rates_;
  const PlanOptions options_;
  std::vector<size_t> order_;
  mutable planner::Memo<Plan> described_;
  mutable planner::Memo<Plan> on_demand_;
  mutable planner::Memo<Plan> grown_;
  bool large_ = false;
  bool overlap_ = false;  // in the search
};

}  // namespace

bool same_actions(const Plan& a, const Plan& b) {
  return a.group == b.group && a.resident == b.resident && a.places == b.places &&
         a.overlap == b.overlap && a.early == b.early && a.residencies == b.residencies &&
         a.buffer_offsets == b.buffer_offsets && a.pool_bytes == b.pool_bytes &&
         a.actions == b.actions && a.update == b.update && a.next == b.next;
}

Plan make_plan(const AccessTrace& trace, const TierBudgets& budgets, const CopyRates& rates,
               const PlanOptions& options) {
  return Search(trace, budgets, rates, options).run();
}

}  // namespace hetmem
