#include "planner/host_steps.h"

#include <algorithm>
#include <limits>

#include "planner/copy_times.h"

namespace hetmem::planner {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// The chunks that may be early.
std::vector<bool> allowed_early(const AccessTrace& trace, const HostTimes& times, int64_t spare,
                                const Plan& plan) {
  std::vector<size_t> latest;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    // What is on disk is written over where it is: it has no spare place.
    const bool on_disk = plan.places_of(c).any_on_disk();
    if (on_host(trace, plan, c) && !on_disk && times.arrival[c] < times.norm) latest.push_back(c);
  }
  std::stable_sort(latest.begin(), latest.end(),
                   [&](size_t a, size_t b) { return times.arrival[a] > times.arrival[b]; });
  std::vector<bool> allowed(trace.chunks.size(), false);
  for (const size_t c : latest) {
    spare -= trace.chunks[c].state_bytes();
    if (spare < 0) break;
    allowed[c] = true;
  }
  return allowed;
}

}  // namespace

bool on_host(const AccessTrace& trace, const Plan& plan, size_t chunk) {
  return trace.chunks[chunk].trained() && !plan.resident[chunk];
}

int first_use(const TraceChunk& chunk) {
  if (!chunk.reads.empty()) return chunk.reads.front();
  return chunk.writes.empty() ? 0 : chunk.writes.front().first;
}

HostTimes expected_times(const AccessTrace& trace, const Plan& plan, const CopyRates& rates) {
  const OpClock clock(trace);
  HostTimes times;
  times.arrival.assign(trace.chunks.size(), 0);
  std::vector<const Residency*> leaving;
  for (const Residency& stay : plan.residencies) {
    if (stay.send) leaving.push_back(&stay);
  }
  std::stable_sort(leaving.begin(), leaving.end(), [](const Residency* a, const Residency* b) {
    return a->last_use < b->last_use;
  });
  double link = 0;
  times.norm = clock.begin(trace.ops());
  for (const Residency* stay : leaving) {
    link = std::max(link, clock.begin(stay->last_use + 1)) +
           static_cast<double>(stay->bytes) / std::max(1.0, rates.to_host);
    times.arrival[static_cast<size_t>(stay->chunk)] = link;
    if (stay->last_use + 1 < trace.ops()) times.norm = std::max(times.norm, link);
  }
  return times;
}

HostTimes times_of(const AccessTrace& trace, const Plan& plan, const Simulation& simulation) {
  HostTimes times;
  times.arrival.assign(trace.chunks.size(), 0);
  double last = 0;
  for (size_t i = 0; i < plan.actions.size(); ++i) {
    const Action& action = plan.actions[i];
    const double end = simulation.actions[i].end;
    if (action.kind == Action::Kind::kSend) {
      times.arrival[static_cast<size_t>(
          plan.residencies[static_cast<size_t>(action.target)].chunk)] = end;
    } else if (action.kind == Action::Kind::kOutputs) {
      times.norm = end;
    } else if (action.kind == Action::Kind::kHostStep) {
      last = std::max(last, end);
    }
  }
  times.free = std::max(0.0, last - simulation.seconds);
  return times;
}

void schedule_host_steps(const AccessTrace& trace, const HostTimes& times, int64_t spare,
                         Plan& plan) {
  const std::vector<bool> allowed = allowed_early(trace, times, spare, plan);
  std::vector<size_t> left;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    if (on_host(trace, plan, c)) left.push_back(c);
  }
  std::stable_sort(left.begin(), left.end(), [&](size_t a, size_t b) {
    return first_use(trace.chunks[a]) < first_use(trace.chunks[b]);
  });
  plan.host_order.clear();
  plan.early.assign(trace.chunks.size(), false);
  const auto ready = [&](size_t c) {
    return allowed[c] ? times.arrival[c] : std::max(times.norm, times.arrival[c]);
  };
  double now = times.free;
  while (!left.empty()) {
    double next = kNever;
    for (const size_t c : left) next = std::min(next, ready(c));
    now = std::max(now, next);
    const auto soonest =
        std::find_if(left.begin(), left.end(), [&](size_t c) { return ready(c) <= now; });
    const size_t c = *soonest;
    plan.early[c] = allowed[c] && now < times.norm;
    now += plan.early[c] ? trace.chunks[c].early_step_seconds : trace.chunks[c].host_step_seconds;
    plan.host_order.push_back(static_cast<int>(c));
    left.erase(soonest);
  }
}

}  // namespace hetmem::planner
