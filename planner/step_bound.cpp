#include "planner/step_bound.h"

#include <algorithm>
#include <array>
#include <vector>

#include "planner/copy_times.h"
#include "planner/host_steps.h"
#include "planner/simulate.h"

namespace hetmem::planner {
namespace {

struct Resource {
  const char* name;
  Lane lane;
};
constexpr std::array<Resource, 6> kResources{{{"compute", Lane::kCompute},
                                              {"copies to the device", Lane::kToDevice},
                                              {"copies to the host", Lane::kToHost},
                                              {"the optimizer on the host", Lane::kHost},
                                              {"reads of the disk", Lane::kDiskRead},
                                              {"writes to the disk", Lane::kDiskWrite}}};

// By lane; a processor that is host and device does the work of both.
std::array<double, kLanes> busy_lanes(const AccessTrace& trace, const Simulation& simulation) {
  std::array<double, kLanes> busy = simulation.busy;
  double& compute = busy[static_cast<size_t>(Lane::kCompute)];
  if (trace.host_shares_compute) compute += busy[static_cast<size_t>(Lane::kHost)];
  return busy;
}

// A step of the host: no earlier than the end of op `after`, done by the begin of op `before` of
// the next step.
struct HostJob {
  int after = 0;
  int before = 0;
  double seconds = 0;
};

std::vector<HostJob> host_jobs(const AccessTrace& trace, const Plan& plan) {
  std::vector<HostJob> jobs;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    if (!on_host(trace, plan, c)) continue;
    const TraceChunk& chunk = trace.chunks[c];
    const bool early = !plan.early.empty() && plan.early[c];
    const int complete = chunk.writes.empty() ? 0 : chunk.writes.back().last;
    jobs.push_back({early ? complete : trace.ops() - 1, first_use(chunk),
                    early ? chunk.early_step_seconds : chunk.host_step_seconds});
  }
  return jobs;
}

// For each pair of an op that a gradient is complete after and one of the next step that weights
// are needed by: the ops from the second to the first, and the jobs between the first and the
// second.
double host_bound(const AccessTrace& trace, const Plan& plan) {
  std::vector<HostJob> jobs = host_jobs(trace, plan);
  std::sort(jobs.begin(), jobs.end(),
            [](const HostJob& a, const HostJob& b) { return a.before < b.before; });
  std::vector<int> released;
  for (const HostJob& job : jobs) released.push_back(job.after);
  std::sort(released.begin(), released.end());
  released.erase(std::unique(released.begin(), released.end()), released.end());
  const OpClock clock(trace);
  double bound = 0;
  for (const int after : released) {
    double work = 0;
    for (const HostJob& job : jobs) {
      if (job.after < after) continue;
      work += job.seconds;
      const double ops = clock.begin(after + 1) - clock.begin(job.before);
      if (job.before <= after) bound = std::max(bound, ops + work);
    }
  }
  return bound;
}

// With a lane of work twice as fast.
AccessTrace faster(AccessTrace trace, Lane lane) {
  const auto halve = [](double& seconds) { seconds /= 2; };
  const bool compute = lane == Lane::kCompute;
  if (compute) std::for_each(trace.op_seconds.begin(), trace.op_seconds.end(), halve);
  for (TraceChunk& chunk : trace.chunks) {
    if (compute) halve(chunk.device_step_seconds);
    if (compute && !trace.host_shares_compute) continue;
    halve(chunk.host_step_seconds);
    halve(chunk.early_step_seconds);
  }
  return trace;
}

CopyRates faster(CopyRates rates, Lane lane) {
  if (lane == Lane::kToDevice) rates.to_device *= 2;
  if (lane == Lane::kToHost) rates.to_host *= 2;
  if (lane == Lane::kDiskRead) rates.disk_read *= 2;
  if (lane == Lane::kDiskWrite) rates.disk_write *= 2;
  return rates;
}

double seconds_with_faster(Lane lane, const AccessTrace& trace, const Plan& plan,
                           const CopyRates& rates) {
  const bool works = lane == Lane::kCompute || lane == Lane::kHost;
  return works ? simulate(faster(trace, lane), plan, rates).seconds
               : simulate(trace, plan, faster(rates, lane)).seconds;
}

}  // namespace

StepBound step_bound(const AccessTrace& trace, const Plan& plan, const CopyRates& rates) {
  constexpr double kDifference = 0.01;
  const Simulation now = simulate(trace, plan, rates);
  const std::array<double, kLanes> busy = busy_lanes(trace, now);
  const Resource* most = nullptr;
  const Resource* busiest = &kResources[0];
  double least = now.seconds * (1 - kDifference);
  for (const Resource& resource : kResources) {
    const double work = busy[static_cast<size_t>(resource.lane)];
    if (work > busy[static_cast<size_t>(busiest->lane)]) busiest = &resource;
    const bool both = trace.host_shares_compute && resource.lane == Lane::kHost;
    if (work == 0 || both) continue;
    const double seconds = seconds_with_faster(resource.lane, trace, plan, rates);
    if (seconds >= least) continue;
    least = seconds;
    most = &resource;
  }
  const double lanes = busy[static_cast<size_t>(busiest->lane)];
  return {trace.host_shares_compute ? lanes : std::max(lanes, host_bound(trace, plan)),
          (most != nullptr ? most : busiest)->name};
}

}  // namespace hetmem::planner
