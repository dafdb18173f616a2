// The host's optimizer steps beside the device, on a virtual clock.
#include "planner/host_steps.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "planner/simulate.h"
#include "tests/planner/plan_check.h"
#include "tests/planner/random_trace.h"

namespace hetmem {
namespace {

constexpr int kLayers = 32;
constexpr CopyRates kFree{1e30, 1e30};

// Layers that take 1 forward and 3 backward; the host steps one in `step`.
AccessTrace layers(double step) {
  AccessTrace trace;
  trace.op_seconds.assign(kLayers, 1);
  trace.op_seconds.resize(2 * kLayers, 3);
  for (int layer = 0; layer < kLayers; ++layer) {
    TraceChunk chunk;
    chunk.weight_bytes = chunk.gradient_bytes = 1024;
    chunk.optimizer_bytes = 2048;
    const int backward = 2 * kLayers - 1 - layer;
    chunk.reads = {layer, backward};
    chunk.writes = {{backward, backward}};
    chunk.host_step_seconds = chunk.early_step_seconds = step;
    chunk.device_step_seconds = 0;
    trace.chunks.push_back(chunk);
  }
  return trace;
}

// Nothing stays on the device.
Plan streamed(const AccessTrace& trace, int64_t host, bool overlap = true) {
  PlanOptions options;
  options.resident_limit = 0;
  options.overlap = overlap;
  const Plan plan = make_plan(trace, {kPlenty, host}, kFree, options);
  EXPECT_TRUE(plan.fits);
  EXPECT_TRUE(plan_check::problems(trace, plan, {kPlenty, host}).empty());
  return plan;
}

// Exact synchronous steps at the bound, as computed apart from this planner: the newest gradient
// first; the norm awaited, then the chunk that is needed soonest; one after the other.
TEST(HostSteps, AreNearlyAsFastAsTheSlowerOfDeviceAndHost) {
  struct Row {
    double step;
    double early;
    double after_norm;
    double serial;
  };
  for (const Row& row : {Row{2, 130, 161, 192}, Row{4, 135, 225, 256}, Row{6, 197, 289, 320}}) {
    SCOPED_TRACE(row.step);
    const AccessTrace trace = layers(row.step);
    EXPECT_NEAR(streamed(trace, kPlenty).step_seconds, row.early, 1e-6);
    EXPECT_NEAR(streamed(trace, state_of(trace)).step_seconds, row.after_norm, 1e-6);
    EXPECT_NEAR(streamed(trace, kPlenty, false).step_seconds, row.serial, 1e-6);
  }
}

// After the norm the host has until the last layer's forward op; before it, from the last layer's
// backward op on. The bound is what then lies outside of that.
TEST(HostSteps, TheBoundKnowsWhenTheyCanBe) {
  const double ops = kLayers * 4;
  for (const double step : {2.0, 4.0, 6.0}) {
    SCOPED_TRACE(step);
    const AccessTrace trace = layers(step);
    const double host = kLayers * step;
    EXPECT_NEAR(streamed(trace, state_of(trace)).lower_bound_seconds, host + ops - (kLayers - 1),
                1e-9);
    // Some wait for the norm even so, which only adds to it.
    const Plan early = streamed(trace, kPlenty);
    EXPECT_GE(early.lower_bound_seconds, std::max(ops + step, host + 1 + 3) - 1e-9);
    EXPECT_LE(early.lower_bound_seconds, early.step_seconds + 1e-9);
  }
}

TEST(HostSteps, WhatLimitsAStepIsWhatShortensIt) {
  EXPECT_EQ(streamed(layers(0.001), kPlenty).limited_by, "compute");
  EXPECT_EQ(streamed(layers(6), kPlenty).limited_by, "the optimizer on the host");
  const AccessTrace trace = layers(0.001);
  const double bytes = static_cast<double>(trace.chunks[0].weight_bytes);
  PlanOptions options;
  options.resident_limit = 0;
  const auto limit = [&](const CopyRates& rates) {
    return make_plan(trace, {kPlenty, kPlenty}, rates, options).limited_by;
  };
  EXPECT_EQ(limit({bytes / 100, 1e30}), "copies to the device");
  EXPECT_EQ(limit({1e30, bytes / 100}), "copies to the host");
}

TEST(HostSteps, SpareMemoryIsKeptToTheBudgetAndUsedWhereItPays) {
  const AccessTrace trace = layers(4);
  double before = 1e9;
  for (const int spare : {0, 4, 8, 16, 32}) {
    const int64_t host = state_of(trace) + spare * trace.chunks[0].state_bytes();
    const Plan plan = streamed(trace, host);
    EXPECT_LE(plan.host.peak, host);
    EXPECT_LE(std::count(plan.early.begin(), plan.early.end(), true), spare);
    EXPECT_LT(plan.step_seconds, before);
    before = plan.step_seconds;
  }
  // A host that is hardly busy needs none for what the next step hides anyway.
  AccessTrace quick = layers(0.001);
  EXPECT_EQ(streamed(quick, kPlenty).host.peak, state_of(quick));
}

TEST(HostSteps, TheFirstLayersOnTheDeviceLeaveNoBubble) {
  for (const auto& [step, seconds] : {std::pair(2.0, 128.0), {4.0, 128.0}}) {
    const AccessTrace trace = layers(step);
    std::vector<bool> resident(kLayers, false);
    resident[0] = resident[1] = true;
    PlanOptions options;
    options.resident = &resident;
    const Plan plan = make_plan(trace, {kPlenty, kPlenty}, kFree, options);
    EXPECT_NEAR(plan.step_seconds, seconds, 1e-6);
  }
}

// A processor that is both has nothing to gain but the time that it waits.
TEST(HostSteps, OnOneProcessorTheyAreNeverSlowerThanAfterIt) {
  AccessTrace trace = layers(2);
  trace.host_shares_compute = true;
  EXPECT_NEAR(streamed(trace, kPlenty).step_seconds, 192, 1e-6);
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    AccessTrace random = random_trace(seed);
    const CopyRates rates = random_rates(seed);
    const int64_t least = make_plan(random, {0, kPlenty}, rates).smallest_device;
    for (const bool shared : {false, true}) {
      random.host_shares_compute = shared;
      PlanOptions off;
      off.overlap = false;
      const TierBudgets budgets{least * 5 / 4, kPlenty};
      const double apart = make_plan(random, budgets, rates, off).step_seconds;
      const Plan plan = make_plan(random, budgets, rates);
      EXPECT_LE(plan.step_seconds, apart * (1 + 1e-9)) << seed << shared;
      EXPECT_GE(plan.step_seconds, plan.lower_bound_seconds * (1 - 1e-9)) << seed << shared;
    }
  }
}

}  // namespace
}  // namespace hetmem
