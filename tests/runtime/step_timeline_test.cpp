#include "runtime/step_timeline.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "planner/offsets.h"
#include "tests/planner/random_trace.h"

namespace hetmem {
namespace {

constexpr auto kWeights = static_cast<size_t>(MemoryKind::kWeights);
constexpr auto kGradients = static_cast<size_t>(MemoryKind::kGradients);
constexpr auto kOptimizer = static_cast<size_t>(MemoryKind::kOptimizer);
constexpr auto kTemporary = static_cast<size_t>(MemoryKind::kActivationsTemporary);
constexpr auto kStaging = static_cast<size_t>(MemoryKind::kStaging);

// A chunk that is brought for op 0 and again for op 2, whose gradient then takes its place, beside
// one that stays; a buffer lives through ops 0 and 1.
struct Example {
  Example() {
    trace.op_seconds = {2, 5, 3};
    TraceChunk chunk;
    chunk.weight_bytes = chunk.gradient_bytes = 1000;
    chunk.optimizer_bytes = 2000;
    trace.chunks = {chunk, chunk};
    trace.buffers = {{70, MemoryKind::kActivationsTemporary, 0, 1}};
    trace.fixed_bytes = 5;
    plan.resident = {false, true};
    plan.residencies = {{0, true, false, true, false, -1, 0, 0, 0, 1000, 0},
                        {0, true, true, true, true, 2, 2, 2, 2, 1000, 0},
                        {1, false, true, false, false, 1, 1, 3, 3, 1000, 1000}};
    using Kind = Action::Kind;
    plan.actions = {
        {Kind::kOp, Lane::kCompute, 0, {}},         {Kind::kOp, Lane::kCompute, 1, {}},
        {Kind::kFetch, Lane::kToDevice, 1, {0}},    {Kind::kOp, Lane::kCompute, 2, {2}},
        {Kind::kSend, Lane::kToHost, 1, {3}},       {Kind::kHostStep, Lane::kHost, 0, {}},
        {Kind::kDeviceStep, Lane::kCompute, 1, {}}, {Kind::kFetch, Lane::kToDevice, 0, {5}}};
    plan.update = 5;
    plan.next = 7;
    plan.device = {9000, 8000, {}};
    plan.host = {7000, 4000, {}};
    simulation.seconds = 30;
    simulation.actions = {{0, 2}, {2, 7}, {2, 9}, {9, 12}, {12, 16}, {16, 20}, {16, 18}, {20, 25}};
  }
  AccessTrace trace;
  Plan plan;
  Simulation simulation;
};

BytesByKind bytes_of(int64_t weights, int64_t gradients, int64_t optimizer, int64_t temporary,
                     int64_t staging) {
  BytesByKind bytes{};
  bytes[kWeights] = weights;
  bytes[kGradients] = gradients;
  bytes[kOptimizer] = optimizer;
  bytes[kTemporary] = temporary;
  bytes[kStaging] = staging;
  return bytes;
}

void expect_samples(const TierTimeline& tier,
                    const std::vector<std::pair<double, BytesByKind>>& expected) {
  ASSERT_EQ(tier.samples.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(tier.samples[i].seconds, expected[i].first);
    EXPECT_EQ(tier.samples[i].bytes, expected[i].second) << "at " << expected[i].first;
  }
}

TEST(StepTimeline, SaysWhatIsWhereAndWhen) {
  const Example example;
  const StepTimeline timeline = make_timeline(example.trace, example.plan, example.simulation);
  EXPECT_EQ(timeline.seconds, 30);
  EXPECT_EQ(timeline.device.budget, 9000);
  EXPECT_EQ(timeline.device.reserved, 8000);
  // From 20 on the chunk is brought for the next step, which begins with it.
  expect_samples(timeline.device, {{0, bytes_of(2000, 0, 2000, 70, 5)},
                                   {2, bytes_of(1000, 1000, 2000, 70, 5)},
                                   {9, bytes_of(2000, 1000, 2000, 0, 5)},
                                   {12, bytes_of(1000, 1000, 2000, 0, 5)},
                                   {18, bytes_of(1000, 0, 2000, 0, 5)},
                                   {20, bytes_of(2000, 0, 2000, 0, 5)}});
  expect_samples(timeline.host, {{0, bytes_of(1000, 0, 2000, 0, 0)},
                                 {12, bytes_of(1000, 1000, 2000, 0, 0)},
                                 {20, bytes_of(1000, 0, 2000, 0, 0)}});
  const auto& compute = timeline.lanes[static_cast<size_t>(Lane::kCompute)];
  ASSERT_EQ(compute.size(), 4u);
  EXPECT_EQ(compute[2].action, 3);
  EXPECT_EQ(compute[2].begin, 9);
  EXPECT_EQ(compute[2].end, 12);
  EXPECT_EQ(timeline.lanes[static_cast<size_t>(Lane::kToDevice)].size(), 2u);
}

TEST(StepTimeline, WhatGoesOnAfterAStepIsSeenAtItsBeginning) {
  Example example;
  example.simulation.seconds = 18;
  example.simulation.actions[7] = {20, 25};
  const StepTimeline timeline = make_timeline(example.trace, example.plan, example.simulation);
  expect_samples(timeline.host, {{0, bytes_of(1000, 1000, 2000, 0, 0)},
                                 {2, bytes_of(1000, 0, 2000, 0, 0)},
                                 {12, bytes_of(1000, 1000, 2000, 0, 0)}});
  const auto& host = timeline.lanes[static_cast<size_t>(Lane::kHost)];
  ASSERT_EQ(host.size(), 2u);
  EXPECT_EQ(host[0].begin, 16);
  EXPECT_EQ(host[0].end, 18);
  EXPECT_EQ(host[1].begin, 0);
  EXPECT_EQ(host[1].end, 2);
  const auto& link = timeline.lanes[static_cast<size_t>(Lane::kToDevice)];
  EXPECT_EQ(link.back().begin, 2);
  EXPECT_EQ(link.back().end, 7);
}

const std::vector<LaneSpan>& lane(const StepTimeline& timeline, Lane lane) {
  return timeline.lanes[static_cast<size_t>(lane)];
}

// The gradient is written to the disk as it is sent, and read for the optimizer's step, which reads
// and writes its own state there, too.
TEST(StepTimeline, ADiskHasLanesOfItsOwn) {
  Example example;
  example.trace.chunks[0].gradient_trailers = 8;
  example.trace.chunks[0].optimizer_trailers = 16;
  example.plan.places = {{false, true, true}, {}};
  example.plan.disk = {9000, 3024, {}};
  example.plan.host.by_kind[kStaging] = 64;
  const StepTimeline timeline = make_timeline(example.trace, example.plan, example.simulation);
  expect_samples(timeline.host, {{0, bytes_of(1000, 0, 0, 0, 64)}});
  expect_samples(timeline.disk, {{0, bytes_of(0, 0, 2016, 0, 0)},
                                 {12, bytes_of(0, 1008, 2016, 0, 0)},
                                 {20, bytes_of(0, 0, 2016, 0, 0)}});
  EXPECT_EQ(timeline.disk.reserved, 3024);
  ASSERT_EQ(lane(timeline, Lane::kDiskRead).size(), 1u);
  EXPECT_EQ(lane(timeline, Lane::kDiskRead)[0].begin, 16);
  ASSERT_EQ(lane(timeline, Lane::kDiskWrite).size(), 2u);
  EXPECT_EQ(lane(timeline, Lane::kDiskWrite)[0].begin, 12);
  EXPECT_EQ(lane(timeline, Lane::kDiskWrite)[1].end, 20);
  EXPECT_EQ(lane(timeline, Lane::kHost).size(), 1u);
}

// Until the norm is known there are both, the chunk as it was and as it becomes, and the gradient.
TEST(StepTimeline, AnEarlyStepHasMemoryBesideItsChunk) {
  Example example;
  using Kind = Action::Kind;
  example.plan.early = {true, false};
  auto& actions = example.plan.actions;
  actions.insert(actions.begin() + 5,
                 {{Kind::kEarlyStep, Lane::kHost, 0, {}}, {Kind::kOutputs, Lane::kToHost, 0, {}}});
  auto& ran = example.simulation.actions;
  ran.insert(ran.begin() + 5, {{16, 20}, {20, 22}});
  example.plan.update += 2;
  example.plan.next += 2;
  const StepTimeline timeline = make_timeline(example.trace, example.plan, example.simulation);
  expect_samples(timeline.host, {{0, bytes_of(1000, 0, 2000, 0, 0)},
                                 {12, bytes_of(1000, 1000, 2000, 0, 0)},
                                 {16, bytes_of(2000, 1000, 4000, 0, 0)},
                                 {22, bytes_of(1000, 0, 2000, 0, 0)}});
  ASSERT_EQ(lane(timeline, Lane::kHost).size(), 1u);
  EXPECT_EQ(lane(timeline, Lane::kHost)[0].action, 5);
}

// By hand, from what the plan says of each op alone.
BytesByKind device_at(const AccessTrace& trace, const Plan& plan, int op) {
  BytesByKind bytes{};
  bytes[kStaging] = trace.fixed_bytes;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    if (!plan.resident[c]) continue;
    bytes[kWeights] += trace.chunks[c].weight_bytes;
    bytes[kOptimizer] += trace.chunks[c].optimizer_bytes;
  }
  for (const TraceBuffer& buffer : trace.buffers) {
    if (buffer.first <= op && op <= buffer.last) {
      bytes[static_cast<size_t>(buffer.kind)] += buffer.bytes;
    }
  }
  for (const Residency& stay : plan.residencies) {
    if (stay.start <= op && op <= stay.end) {
      bytes[stay.weights ? kWeights : kGradients] += stay.bytes;
    }
  }
  return bytes;
}

// So that a pool need not have gaps.
AccessTrace aligned(AccessTrace trace) {
  for (TraceBuffer& buffer : trace.buffers) buffer.bytes = planned_bytes(buffer.bytes);
  for (TraceChunk& chunk : trace.chunks) {
    chunk.weight_bytes = planned_bytes(chunk.weight_bytes);
    if (chunk.trained()) chunk.gradient_bytes = chunk.weight_bytes;
  }
  return trace;
}

int64_t most(const TierTimeline& tier) {
  int64_t bytes = 0;
  for (const MemorySample& sample : tier.samples) bytes = std::max(bytes, total(sample.bytes));
  return bytes;
}

// A plan with as much of the device as is needed and a little more; with every other seed there is
// a disk below a host that is too small.
Plan random_plan(const AccessTrace& trace, const CopyRates& rates, uint64_t seed, bool overlap) {
  PlanOptions options;
  options.overlap = overlap;
  TierBudgets budgets{0, kPlenty};
  if (seed % 2 == 1) {
    budgets.host = state_of(trace) / 3;
    budgets.disk = kPlenty;
    budgets.staging = 100;
  }
  budgets.device = make_plan(trace, budgets, rates, options).smallest_device +
                   static_cast<int64_t>(seed % 4) * 40'000;
  return make_plan(trace, budgets, rates, options);
}

// Over plans of random steps: at every op what is there, at the fullest the plan's own figures by
// kind, never more than is reserved; and below the device the plan's peaks.
TEST(StepTimeline, AgreesWithThePlansOwnPeaks) {
  int without_gaps = 0;
  int streamed = 0;
  int on_disk = 0;
  for (uint64_t seed = 0; seed < 16; ++seed) {
    const AccessTrace trace = aligned(random_trace(seed, {3, 2, 2}));
    const CopyRates rates = random_rates(seed);
    const Plan plan = random_plan(trace, rates, seed, false);
    ASSERT_TRUE(plan.fits);
    const Simulation simulation = simulate(trace, plan, rates);
    const StepTimeline timeline = make_timeline(trace, plan, simulation);
    EXPECT_EQ(timeline.seconds, plan.step_seconds);

    int64_t fullest = 0;
    BytesByKind then{};
    for (size_t i = 0; i < plan.actions.size(); ++i) {
      const Action& action = plan.actions[i];
      if (action.kind != Action::Kind::kOp) continue;
      const double begin = action.target == 0 ? 0 : simulation.actions[i].begin;
      const auto after = std::upper_bound(
          timeline.device.samples.begin(), timeline.device.samples.end(), begin,
          [](double seconds, const MemorySample& sample) { return seconds < sample.seconds; });
      const BytesByKind& seen = std::prev(after)->bytes;
      ASSERT_EQ(seen, device_at(trace, plan, action.target)) << seed << ", op " << action.target;
      if (total(seen) > fullest) then = seen;
      fullest = std::max(fullest, total(seen));
    }
    const int64_t gaps = plan.device.peak - fullest;
    BytesByKind with_gaps = then;
    with_gaps[kTemporary] += gaps;
    EXPECT_EQ(with_gaps, plan.device.by_kind) << seed;
    EXPECT_LE(most(timeline.device), plan.device.peak) << seed;
    EXPECT_EQ(most(timeline.host), plan.host.peak) << seed;
    EXPECT_EQ(most(timeline.disk), plan.disk.peak) << seed;
    without_gaps += gaps == 0 ? 1 : 0;
    streamed += plan.host.peak > 0 ? 1 : 0;
    on_disk += plan.disk.peak > 0 ? 1 : 0;
  }
  EXPECT_GT(without_gaps, 5);
  EXPECT_GT(streamed, 10);
  EXPECT_GT(on_disk, 5);
}

// Steps that go on into the next: no tier holds more than is reserved, and lanes are as busy as the
// simulator says.
TEST(StepTimeline, AgreesWithStepsThatOverlap) {
  int wrapped = 0;
  int early = 0;
  for (uint64_t seed = 0; seed < 16; ++seed) {
    const AccessTrace trace = random_trace(seed, {3, 1, 2});
    const CopyRates rates = random_rates(seed);
    const Plan plan = random_plan(trace, rates, seed, true);
    ASSERT_TRUE(plan.fits);
    const Simulation simulation = simulate(trace, plan, rates);
    const StepTimeline timeline = make_timeline(trace, plan, simulation);
    EXPECT_LE(most(timeline.device), plan.device.peak) << seed;
    EXPECT_LE(most(timeline.host), plan.host.peak) << seed;
    EXPECT_LE(most(timeline.disk), plan.disk.peak) << seed;
    for (const Lane l : {Lane::kCompute, Lane::kToDevice, Lane::kToHost, Lane::kHost}) {
      double busy = 0;
      for (const LaneSpan& span : lane(timeline, l)) {
        EXPECT_LE(0, span.begin);
        EXPECT_LE(span.end, timeline.seconds);
        busy += span.end - span.begin;
      }
      // What is also on a disk takes as long as the slower of the two.
      const double least = simulation.busy[static_cast<size_t>(l)];
      EXPECT_GE(busy, least * (1 - 1e-9)) << seed;
      if (plan.disk.peak == 0) {
        EXPECT_NEAR(busy, least, least * 1e-9) << seed;
      }
    }
    wrapped += simulation.actions.back().end > simulation.seconds ? 1 : 0;
    early += plan.early.empty() ? 0 : 1;
  }
  EXPECT_GT(wrapped, 3);
  EXPECT_GT(early, 3);
}

}  // namespace
}  // namespace hetmem
