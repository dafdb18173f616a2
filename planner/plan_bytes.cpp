// What plans keep where, and what passes between host and disk.
#include "planner/homes.h"
#include "planner/plan.h"

namespace hetmem {

int64_t resident_bytes(const AccessTrace& trace, const std::vector<bool>& resident) {
  int64_t sum = 0;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    if (resident[c]) sum += trace.chunks[c].state_bytes();
  }
  return sum;
}

int64_t host_bytes(const AccessTrace& trace, const std::vector<bool>& resident) {
  int64_t sum = 0;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    if (!resident[c]) sum += trace.chunks[c].state_bytes() + trace.chunks[c].gradient_bytes;
  }
  return sum;
}

bool has_room(const AccessTrace& trace, const std::vector<bool>& resident,
              const TierBudgets& budgets) {
  const int64_t host = budgets.room_of_host();
  if (host_bytes(trace, resident) <= host) return true;
  if (budgets.disk == 0) return false;
  const Homes homes = choose_homes(trace, resident, host, true);
  return homes.host_bytes <= host && homes.disk_bytes <= budgets.disk - budgets.disk_margin;
}

DiskUse disk_use(const AccessTrace& trace, const Plan& plan, const Action& action) {
  if (plan.places.empty()) return {};
  const auto target = static_cast<size_t>(action.target);
  const bool copy = action.kind == Action::Kind::kFetch || action.kind == Action::Kind::kSend;
  if (!copy && action.kind != Action::Kind::kHostStep) return {};
  const auto chunk = copy ? static_cast<size_t>(plan.residencies[target].chunk) : target;
  const TraceChunk& of = trace.chunks[chunk];
  const ChunkPlaces places = plan.places_of(chunk);
  if (action.kind == Action::Kind::kHostStep) return step_use(of, places);
  if (action.kind == Action::Kind::kSend) return send_use(of, places);
  return fetch_use(of, places, plan.residencies[target].weights);
}

int64_t spare_bytes(const AccessTrace& trace, const std::vector<bool>& early) {
  int64_t sum = 0;
  for (size_t c = 0; c < early.size(); ++c) {
    if (early[c]) sum += trace.chunks[c].state_bytes();
  }
  return sum;
}

}  // namespace hetmem
