#include "planner/step_bound.h"

#include <algorithm>
#include <array>
#include <vector>

#include "planner/copy_times.h"
#include "planner/host_steps.h"
#include "planner/simulate.h"

namespace hetmem::planner {
namespace {

// The lanes, in their order, and the disk as a whole.
enum class Part : uint8_t {
  kCompute,
  kToDevice,
  kToHost,
  kHost,
  kDiskReads,
  kDiskWrites,
  kDisk,  // where reads and writes take from each other
};
constexpr std::array kNames{"compute",
                            "copies to the device",
                            "copies to the host",
                            "the optimizer on the host",
                            "reads of the disk",
                            "writes to the disk",
                            "reads and writes of the disk"};
using BusyParts = std::array<double, kNames.size()>;

double& at(BusyParts& busy, Part part) { return busy[static_cast<size_t>(part)]; }

// A processor that is host and device does the work of both.
BusyParts busy_parts(const AccessTrace& trace, const Simulation& simulation) {
  BusyParts busy{};
  std::copy(simulation.busy.begin(), simulation.busy.end(), busy.begin());
  at(busy, Part::kDisk) = simulation.disk_busy;
  if (trace.host_shares_compute) at(busy, Part::kCompute) += at(busy, Part::kHost);
  return busy;
}

// Whether it is to be had on its own.
bool counts(const AccessTrace& trace, BusyParts& busy, Part part) {
  if (at(busy, part) == 0) return false;
  if (part == Part::kHost) return !trace.host_shares_compute;
  const double one_way = std::max(at(busy, Part::kDiskReads), at(busy, Part::kDiskWrites));
  return part != Part::kDisk || at(busy, part) > one_way;
}

// A step of the host: no earlier than the end of op `after`, done by the begin of op `before` of
// the next step. On a processor that has the ops to do, too, what it takes is the disk's time.
struct HostJob {
  int after = 0;
  int before = 0;
  double seconds = 0;
  DiskUse disk;
};

std::vector<HostJob> host_jobs(const AccessTrace& trace, const Plan& plan) {
  std::vector<HostJob> jobs;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    if (!on_host(trace, plan, c)) continue;
    const TraceChunk& chunk = trace.chunks[c];
    const bool early = !plan.early.empty() && plan.early[c];
    const int complete = chunk.writes.empty() ? 0 : chunk.writes.back().last;
    HostJob job;
    job.after = early ? complete : trace.ops() - 1;
    job.before = first_use(chunk);
    job.disk = step_use(chunk, plan.places_of(c));
    if (!trace.host_shares_compute) {
      job.seconds = early ? chunk.early_step_seconds : chunk.host_step_seconds;
    }
    jobs.push_back(job);
  }
  return jobs;
}

// For each pair of an op that a gradient is complete after and one of the next step that weights
// are needed by: the ops from the second to the first, and the jobs between the first and the
// second.
double host_bound(const AccessTrace& trace, const Plan& plan, const CopyRates& rates) {
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
    DiskUse disk;
    for (const HostJob& job : jobs) {
      if (job.after < after) continue;
      work += job.seconds;
      disk.read += job.disk.read;
      disk.written += job.disk.written;
      const double ops = clock.begin(after + 1) - clock.begin(job.before);
      if (job.before <= after) {
        bound = std::max(bound, ops + std::max(work, disk_seconds(disk, rates)));
      }
    }
  }
  return bound;
}

// With a part of work twice as fast.
AccessTrace faster(AccessTrace trace, Part part) {
  const auto halve = [](double& seconds) { seconds /= 2; };
  const bool compute = part == Part::kCompute;
  if (compute) std::for_each(trace.op_seconds.begin(), trace.op_seconds.end(), halve);
  for (TraceChunk& chunk : trace.chunks) {
    if (compute) halve(chunk.device_step_seconds);
    if (compute && !trace.host_shares_compute) continue;
    halve(chunk.host_step_seconds);
    halve(chunk.early_step_seconds);
  }
  return trace;
}

CopyRates faster(CopyRates rates, Part part) {
  const bool disk = part == Part::kDisk;
  if (part == Part::kToDevice) rates.to_device *= 2;
  if (part == Part::kToHost) rates.to_host *= 2;
  if (disk || part == Part::kDiskReads) rates.disk_read *= 2;
  if (disk || part == Part::kDiskWrites) rates.disk_write *= 2;
  if (disk) rates.disk_both *= 2;
  return rates;
}

double seconds_with_faster(Part part, const AccessTrace& trace, const Plan& plan,
                           const CopyRates& rates) {
  const bool works = part == Part::kCompute || part == Part::kHost;
  return works ? simulate(faster(trace, part), plan, rates).seconds
               : simulate(trace, plan, faster(rates, part)).seconds;
}

}  // namespace

StepBound step_bound(const AccessTrace& trace, const Plan& plan, const CopyRates& rates) {
  constexpr double kDifference = 0.01;
  const Simulation now = simulate(trace, plan, rates);
  BusyParts busy = busy_parts(trace, now);
  const auto busiest =
      static_cast<size_t>(std::max_element(busy.begin(), busy.end()) - busy.begin());
  size_t most = busiest;
  double least = now.seconds * (1 - kDifference);
  for (size_t p = 0; p < busy.size(); ++p) {
    const auto part = static_cast<Part>(p);
    if (!counts(trace, busy, part)) continue;
    const double seconds = seconds_with_faster(part, trace, plan, rates);
    if (seconds >= least) continue;
    least = seconds;
    most = p;
  }
  return {std::max(busy[busiest], host_bound(trace, plan, rates)), kNames[most]};
}

}  // namespace hetmem::planner
