#include "planner/plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "planner/simulate.h"
#include "tests/planner/plan_check.h"
#include "tests/planner/random_trace.h"

namespace hetmem {
namespace {

constexpr uint64_t kSeeds = 100;

std::string joined(const std::vector<std::string>& problems) {
  std::string all;
  for (const std::string& problem : problems) all += problem + "\n";
  return all;
}

// Calls visit(trace, rates, budgets, plan) for each seed, over budgets from the smallest upwards.
template <typename Visit>
void for_random_plans(uint64_t seeds, const Visit& visit) {
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const AccessTrace trace = random_trace(seed);
    const CopyRates rates = random_rates(seed);
    const int64_t least = make_plan(trace, {0, kPlenty}, rates).smallest_device;
    Random random(seed);
    for (const int64_t more : {int64_t{0}, random.between(0, state_of(trace) / 4),
                               random.between(0, state_of(trace)), 2 * state_of(trace)}) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", budget " + std::to_string(least + more));
      const TierBudgets budgets{least + more, kPlenty};
      visit(trace, rates, budgets, make_plan(trace, budgets, rates));
    }
  }
}

TEST(Plan, IsRightForRandomTracesAndBudgets) {
  for_random_plans(kSeeds, [](const AccessTrace& trace, const CopyRates& rates,
                              const TierBudgets& budgets, const Plan& plan) {
    ASSERT_TRUE(plan.fits);
    EXPECT_EQ(joined(plan_check::problems(trace, plan, budgets)), "");
    PlanOptions on_demand;
    on_demand.prefetch = false;
    EXPECT_EQ(
        joined(plan_check::problems(trace, make_plan(trace, budgets, rates, on_demand), budgets)),
        "");
    // Without overlap, or with little spare memory on the host.
    PlanOptions other;
    other.overlap = trace.chunks.size() % 2 == 0;
    const TierBudgets tight{budgets.device, host_bytes(trace, plan.resident) + budgets.device / 8};
    const Plan second = make_plan(trace, tight, rates, other);
    EXPECT_EQ(second.fits ? joined(plan_check::problems(trace, second, tight)) : "", "");
  });
}

TEST(Plan, FitsAtTheSmallestDeviceBudgetAndNotBelow) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    const AccessTrace trace = random_trace(seed);
    const CopyRates rates = random_rates(seed);
    const int64_t host = Random(seed).between(0, state_of(trace));  // some chunks have to stay
    const int64_t least = make_plan(trace, {0, host}, rates).smallest_device;
    const Plan plan = make_plan(trace, {least, host}, rates);
    EXPECT_TRUE(plan.fits);
    EXPECT_EQ(plan.smallest_device, least);
    EXPECT_EQ(joined(plan_check::problems(trace, plan, {least, host})), "");
    const Plan below = make_plan(trace, {least * 99 / 100, host}, rates);
    EXPECT_FALSE(below.fits);
    EXPECT_EQ(below.smallest_device, least);
  }
}

TEST(Plan, KeepsEverythingWhereThereIsRoom) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const AccessTrace trace = random_trace(seed);
    const Plan plan = make_plan(trace, {kPlenty, 0}, random_rates(seed));
    ASSERT_TRUE(plan.fits);
    EXPECT_EQ(plan.traffic.to_device, trace.input_bytes);
    EXPECT_EQ(plan.traffic.to_host, trace.output_bytes);
    EXPECT_EQ(plan.host.peak, 0);
  }
}

// The checker itself: plans that were made wrong on purpose.

TEST(PlanCheck, SeesAWaitThatIsMissing) {
  int64_t dropped = 0;
  int64_t dropped_carried = 0;
  for_random_plans(12, [&](const AccessTrace& trace, const CopyRates&, const TierBudgets& budgets,
                           const Plan& plan) {
    for (size_t i = 0; i < plan.actions.size(); ++i) {
      for (const bool carried : {false, true}) {
        const auto list = carried ? &Action::carried : &Action::waits;
        for (size_t w = 0; w < (plan.actions[i].*list).size(); ++w) {
          Plan mutated = plan;
          std::vector<int>& waits = mutated.actions[i].*list;
          const int wait = waits[w];
          waits.erase(waits.begin() + static_cast<int64_t>(w));
          const plan_check::Order order(mutated);
          const int at = static_cast<int>(i);
          if (carried ? order.ordered_next(wait, at) : order.ordered(wait, at))
            continue;  // implied
          ++(carried ? dropped_carried : dropped);
          EXPECT_NE(joined(plan_check::problems(trace, mutated, budgets)), "")
              << "action " << i << " without its wait for " << wait;
        }
      }
    }
  });
  EXPECT_GT(dropped, 300);
  EXPECT_GT(dropped_carried, 100);
}

TEST(PlanCheck, SeesACopyThatIsMissing) {
  for_random_plans(12, [](const AccessTrace& trace, const CopyRates&, const TierBudgets& budgets,
                          const Plan& plan) {
    for (size_t r = 0; r < plan.residencies.size(); ++r) {
      for (const bool fetch : {true, false}) {
        Plan mutated = plan;
        Residency& stay = mutated.residencies[r];
        if (!(fetch ? stay.fetch : stay.send)) continue;
        (fetch ? stay.fetch : stay.send) = false;
        for (Action& action : mutated.actions) {  // runs something harmless in its place
          const bool copy = action.kind == (fetch ? Action::Kind::kFetch : Action::Kind::kSend);
          if (copy && action.target == static_cast<int>(r)) action.target = -1;
        }
        std::vector<Action>& actions = mutated.actions;
        const auto gone = std::find_if(actions.begin(), actions.end(),
                                       [](const Action& action) { return action.target < 0; });
        const int at = static_cast<int>(gone - actions.begin());
        actions.erase(gone);
        mutated.update -= at < mutated.update ? 1 : 0;
        mutated.next -= at < mutated.next ? 1 : 0;
        for (Action& action : actions) {
          std::erase(action.waits, at);
          std::erase(action.carried, at);
          for (int& wait : action.waits) wait -= wait > at ? 1 : 0;
          for (int& wait : action.carried) wait -= wait > at ? 1 : 0;
        }
        EXPECT_NE(joined(plan_check::problems(trace, mutated, budgets)), "");
      }
    }
  });
}

TEST(PlanCheck, SeesMemoryThatIsShared) {
  int64_t moved = 0;
  for_random_plans(12, [&](const AccessTrace& trace, const CopyRates&, const TierBudgets& budgets,
                           const Plan& plan) {
    for (size_t r = 0; r < plan.residencies.size(); ++r) {
      for (size_t other = 0; other < plan.residencies.size(); ++other) {
        const Residency& a = plan.residencies[r];
        const Residency& b = plan.residencies[other];
        if (r == other || a.first_use > b.last_use || b.first_use > a.last_use) continue;
        Plan mutated = plan;
        mutated.residencies[r].offset = std::min(b.offset, plan.pool_bytes - a.bytes);
        ++moved;
        EXPECT_NE(joined(plan_check::problems(trace, mutated, budgets)), "");
      }
    }
  });
  EXPECT_GT(moved, 300);
}

TEST(PlanCheck, SeesBudgetsAndUpdatesThatAreMissed) {
  const AccessTrace trace = random_trace(3);
  const TierBudgets budgets{kPlenty, kPlenty};
  const Plan plan = make_plan(trace, budgets, random_rates(3));
  EXPECT_NE(joined(plan_check::problems(trace, plan, {plan.device.peak - 1, kPlenty})), "");
  Plan mutated = plan;
  mutated.actions.erase(mutated.actions.begin() + mutated.update);
  --mutated.next;
  for (Action& action : mutated.actions) action.carried.clear();
  EXPECT_NE(joined(plan_check::problems(trace, mutated, budgets)), "");
}

}  // namespace
}  // namespace hetmem
