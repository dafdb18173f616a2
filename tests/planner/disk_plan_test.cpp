// Plans of steps for which the host is too small, beside a disk.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "planner/plan.h"
#include "planner/simulate.h"
#include "tests/planner/plan_check.h"
#include "tests/planner/random_trace.h"

namespace hetmem {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 40;
constexpr uint64_t kSeeds = 12;

AccessTrace trace_with_trailers(uint64_t seed) {
  AccessTrace trace = random_trace(seed);
  Random random(seed + 77);
  for (TraceChunk& chunk : trace.chunks) {
    chunk.weight_trailers = random.between(1, 100);
    chunk.optimizer_trailers = chunk.optimizer_bytes > 0 ? random.between(1, 100) : 0;
    chunk.gradient_trailers = chunk.trained() ? random.between(1, 100) : 0;
  }
  return trace;
}

CopyRates rates_with_disk(uint64_t seed) {
  CopyRates rates = random_rates(seed);
  Random random(seed + 99);
  rates.disk_read = 1e9 * 0.25 * static_cast<double>(random.between(1, 8));
  rates.disk_write = 1e9 * 0.25 * static_cast<double>(random.between(1, 8));
  // Between that of one direction and that of two disks.
  const double least = std::min(rates.disk_read, rates.disk_write);
  if (seed % 3 > 0) rates.disk_both = least * 0.25 * static_cast<double>(random.between(4, 12));
  return rates;
}

double disk_seconds_of(const Traffic& moved, const CopyRates& rates) {
  const auto read = static_cast<double>(moved.disk_read);
  const auto written = static_cast<double>(moved.disk_write);
  const double reading = read / rates.disk_read;
  const double writing = written / rates.disk_write;
  if (rates.disk_both == 0) return std::max(reading, writing);
  // A byte of each takes 2 / disk_both, at most what they take one after the other.
  const double one_by_one = 1 / rates.disk_read + 1 / rates.disk_write;
  const double of_each = std::min(one_by_one, 2 / rates.disk_both);
  return std::max({reading, writing, (reading + writing) * of_each / one_by_one});
}

TierBudgets budgets_of(int64_t device, int64_t host, int64_t disk, int64_t staging) {
  TierBudgets budgets{device, host + staging};
  budgets.disk = disk;
  budgets.staging = staging;
  return budgets;
}

std::string problems_of(const AccessTrace& trace, const Plan& plan, const TierBudgets& budgets) {
  std::string all;
  for (const std::string& problem : plan_check::problems(trace, plan, budgets)) {
    all += problem + "\n";
  }
  return all;
}

// Every pass of a part that is on disk, counted from the actions; or those of the host's steps.
Traffic disk_traffic(const AccessTrace& trace, const Plan& plan, bool steps_alone = false) {
  Traffic moved;
  for (const Action& action : plan.actions) {
    if (steps_alone && action.kind != Action::Kind::kHostStep) continue;
    const bool copy = action.kind == Action::Kind::kFetch || action.kind == Action::Kind::kSend;
    if (!copy && action.kind != Action::Kind::kHostStep) continue;
    const auto target = static_cast<size_t>(action.target);
    const auto c = copy ? static_cast<size_t>(plan.residencies[target].chunk) : target;
    const TraceChunk& chunk = trace.chunks[c];
    const ChunkPlaces at = plan.places.empty() ? ChunkPlaces{} : plan.places[c];
    const int64_t w = at.weights_on_disk ? chunk.weight_bytes + chunk.weight_trailers : 0;
    const int64_t o = at.optimizer_on_disk ? chunk.optimizer_bytes + chunk.optimizer_trailers : 0;
    const int64_t g = at.gradient_on_disk ? chunk.gradient_bytes + chunk.gradient_trailers : 0;
    if (action.kind == Action::Kind::kFetch) {
      moved.disk_read += plan.residencies[target].weights ? w : g;
    } else if (action.kind == Action::Kind::kSend) {
      moved.disk_write += g;
    } else {
      moved.disk_read += w + o + g;
      moved.disk_write += w + o;
    }
  }
  return moved;
}

// No chunk is stepped before the last op, and none is used before it is stepped: from the first use
// of the one that is needed last to the last op, and then the steps of all.
double seconds_around_the_steps(const AccessTrace& trace, const Plan& plan,
                                const CopyRates& rates) {
  int last = 0;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    const TraceChunk& chunk = trace.chunks[c];
    if (!chunk.trained() || plan.resident[c] || chunk.reads.empty()) continue;
    if (!plan.early.empty() && plan.early[c]) return 0;
    last = std::max(last, chunk.reads.front());
  }
  const double ops = std::accumulate(trace.op_seconds.begin() + last, trace.op_seconds.end(), 0.0);
  return ops + disk_seconds_of(disk_traffic(trace, plan, true), rates);
}

TEST(DiskPlan, IsRightForRandomTracesAndBudgets) {
  int on_disk = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const AccessTrace trace = trace_with_trailers(seed);
    const CopyRates rates = rates_with_disk(seed);
    const int64_t least = make_plan(trace, {0, kPlenty}, rates).smallest_device;
    for (const int eighths : {0, 1, 4, 7, 8}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", host " + std::to_string(eighths) + "/8");
      const TierBudgets budgets =
          budgets_of(least + state_of(trace) / 16, state_of(trace) * eighths / 8, kPlenty, 1000);
      const Plan plan = make_plan(trace, budgets, rates);
      ASSERT_TRUE(plan.fits);
      EXPECT_EQ(problems_of(trace, plan, budgets), "");
      const Traffic moved = disk_traffic(trace, plan);
      EXPECT_EQ(plan.traffic.disk_read, moved.disk_read);
      EXPECT_EQ(plan.traffic.disk_write, moved.disk_write);
      EXPECT_LE(plan.lower_bound_seconds, plan.step_seconds * (1 + 1e-12));
      const double bound = plan.lower_bound_seconds * (1 + 1e-12);
      EXPECT_GE(bound, disk_seconds_of(moved, rates));
      EXPECT_GE(bound, seconds_around_the_steps(trace, plan, rates));
      on_disk += plan.disk.peak > 0 ? 1 : 0;
    }
  }
  EXPECT_GT(on_disk, 2 * static_cast<int>(kSeeds));
}

// A host of nothing and a disk are as good as a host with room for all: the device alone decides.
TEST(DiskPlan, TheSmallestDeviceIsThatBesideALargeHost) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const AccessTrace trace = trace_with_trailers(seed);
    const CopyRates rates = rates_with_disk(seed);
    const int64_t least = make_plan(trace, {0, kPlenty}, rates).smallest_device;
    EXPECT_EQ(make_plan(trace, budgets_of(0, 0, kPlenty, 0), rates).smallest_device, least);
    EXPECT_TRUE(make_plan(trace, budgets_of(least, 0, kPlenty, 0), rates).fits);
    EXPECT_FALSE(make_plan(trace, budgets_of(least * 99 / 100, 0, kPlenty, 0), rates).fits);
  }
}

// What neither host nor disk has room for stays on the device.
TEST(DiskPlan, KeepsTheBudgetOfTheDisk) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    const AccessTrace trace = trace_with_trailers(seed);
    const CopyRates rates = rates_with_disk(seed);
    TierBudgets budgets = budgets_of(kPlenty, 0, state_of(trace) / 2, 500);
    budgets.disk_margin = state_of(trace) / 16;
    const Plan plan = make_plan(trace, budgets, rates);
    ASSERT_TRUE(plan.fits);
    EXPECT_EQ(problems_of(trace, plan, budgets), "");
    const Plan least = make_plan(trace, budgets_of(0, 0, state_of(trace) / 2, 500), rates);
    EXPECT_GT(resident_bytes(trace, least.resident), 0);
  }
}

// One chunk whose weights op `read` reads and whose gradient op 1 makes; the host steps it in 1 s.
AccessTrace one_chunk(std::vector<double> op_seconds, int read) {
  AccessTrace trace;
  trace.op_seconds = std::move(op_seconds);
  TraceChunk chunk;
  chunk.weight_bytes = 10;
  chunk.gradient_bytes = 10;
  chunk.optimizer_bytes = 20;
  chunk.reads = {read};
  chunk.writes = {{1, 1}};
  chunk.host_step_seconds = 1;
  trace.chunks = {chunk};
  return trace;
}

// Its stays, the weights brought and the gradient sent; the sixth action is to be the host's step.
Plan stays_of_one_chunk(int read, const ChunkPlaces& places) {
  Plan plan;
  plan.resident = {false};
  plan.places = {places};
  Residency weights;
  weights.weights = weights.fetch = true;
  weights.bytes = 10;
  weights.first_use = weights.last_use = read;
  Residency gradient;
  gradient.gradient = gradient.send = true;
  gradient.first_use = gradient.last_use = 1;
  gradient.bytes = 10;
  plan.residencies = {weights, gradient};
  plan.update = 5;
  plan.next = 6;
  return plan;
}

// One chunk of which all is on disk, beside ops of 5 s each: a second a byte on each lane.
TEST(DiskPlan, ADiskIsALaneBesideThatOfTheLink) {
  const AccessTrace trace = one_chunk({5, 5}, 0);
  Plan plan = stays_of_one_chunk(0, {true, true, true});
  plan.actions = {{Action::Kind::kFetch, Lane::kToDevice, 0, {}},
                  {Action::Kind::kOp, Lane::kCompute, 0, {0}},
                  {Action::Kind::kOp, Lane::kCompute, 1, {}},
                  {Action::Kind::kOutputs, Lane::kToHost, 0, {2}},
                  {Action::Kind::kSend, Lane::kToHost, 1, {2}},
                  {Action::Kind::kHostStep, Lane::kHost, 0, {4}}};
  // The fetch takes what the disk does (10 s), not the link (1 s); so does the gradient, at twice
  // the rate; the step reads 40 bytes while it writes 30.
  const Simulation run = simulate(trace, plan, {10, 10, 1, 2});
  EXPECT_DOUBLE_EQ(run.seconds, 10 + 5 + 5 + 5 + 40);
  EXPECT_DOUBLE_EQ(run.exposed_seconds, 10);
  EXPECT_EQ(run.traffic.disk_read, 50);
  EXPECT_EQ(run.traffic.disk_write, 40);
  EXPECT_DOUBLE_EQ(run.busy[static_cast<size_t>(Lane::kDiskRead)], 50);
  EXPECT_DOUBLE_EQ(run.busy[static_cast<size_t>(Lane::kDiskWrite)], 20);
  // A disk that takes 1.2 s for a byte of each, instead of 1 s and then 0.5 s: four fifths of that.
  const Simulation shared = simulate(trace, plan, {10, 10, 1, 2, 2 / 1.2});
  EXPECT_DOUBLE_EQ(shared.seconds, 10 + 5 + 5 + 5 + 0.8 * (40 + 15));
  EXPECT_DOUBLE_EQ(shared.disk_busy, 0.8 * (50 + 20));
}

// Reads at 3 GB/s, writes at 0.5, never both at once.
TEST(DiskPlan, ADiskThatTakesTurnsIsNoSlowerThanItsTurns) {
  const CopyRates rates{0, 0, 3e9, 0.5e9, 2 / (1 / 3e9 + 1 / 0.5e9)};
  EXPECT_NEAR(disk_seconds({3'000'000'000, 0}, rates), 1, 1e-12);
  EXPECT_NEAR(disk_seconds({0, 1'000'000'000}, rates), 2, 1e-12);
  EXPECT_NEAR(disk_seconds({3'000'000'000, 1'000'000'000}, rates), 3, 1e-12);
}

// Ops of 15 and 5 s and a step of 1 s, on one processor; moments on disk, a second a byte to read.
TEST(DiskPlan, AStepThatWaitsForTheDiskLeavesTheProcessorToOps) {
  AccessTrace trace = one_chunk({15, 5}, 1);
  trace.host_shares_compute = true;
  Plan plan = stays_of_one_chunk(1, {false, false, true});
  plan.actions = {{Action::Kind::kOp, Lane::kCompute, 0, {}},
                  {Action::Kind::kFetch, Lane::kToDevice, 0, {}, {5}},
                  {Action::Kind::kOp, Lane::kCompute, 1, {1}},
                  {Action::Kind::kOutputs, Lane::kToHost, 0, {2}},
                  {Action::Kind::kSend, Lane::kToHost, 1, {2}},
                  {Action::Kind::kHostStep, Lane::kHost, 0, {4}}};
  const CopyRates rates{10, 10, 1, 2};
  // One after the other, but for the fetch.
  EXPECT_DOUBLE_EQ(simulate(trace, plan, rates).seconds, 15 + 5 + 1 + 20);
  // The step of the host goes on beside the first op, which begins when the processor is free.
  plan.overlap = true;
  EXPECT_DOUBLE_EQ(simulate(trace, plan, rates).seconds, 20 + 1 + 5 + 1);
}

}  // namespace
}  // namespace hetmem
